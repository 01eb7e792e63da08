"""What holds for every test."""

from __future__ import annotations

from gmi_registry import sanitize


def pytest_runtest_setup() -> None:
    """A process knows the secrets that it has read until it ends, and leaves them out of all that
    it says; what one test reads is none to the next."""
    sanitize._secrets = sanitize._Secrets()
