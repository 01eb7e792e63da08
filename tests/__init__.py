"""The tests. What they share is in :mod:`tests.support`."""
