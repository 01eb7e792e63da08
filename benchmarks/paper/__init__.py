"""How often each method finds the right model, by the paper's protocols: docs/benchmark.md."""
