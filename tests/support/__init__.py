"""What tests share: builders of models and specifications, loopback hubs, faults."""
