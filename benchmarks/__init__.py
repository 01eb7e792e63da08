"""What the method finds, and what it costs: benchmarks that are no part of the package."""
