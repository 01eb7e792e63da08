"""Tiny models of every architecture that people publish, with random weights, in real layouts."""
