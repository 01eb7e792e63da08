"""Benchmarks: a small file says what is drawn and asked, a folder holds what came of it."""
