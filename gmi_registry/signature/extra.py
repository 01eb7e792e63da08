"""The optional library that makes and checks signatures."""

from __future__ import annotations

from types import ModuleType

from gmi_registry.errors import MissingExtraError

__all__ = ["signing_library"]


def signing_library() -> ModuleType:
    """The module ``model_signing``. Raises MissingExtraError where it cannot be imported.

    It names pyOpenSSL among its imports and not among its requirements, so that may be what is
    missing.
    """
    try:
        import model_signing
    except ImportError as error:
        package = "pyOpenSSL" if (error.name or "").startswith("OpenSSL") else "model-signing"
        raise MissingExtraError(package, extra="sign", purpose="a signature") from error
    return model_signing
