"""Keys in PEM files: one that makes signatures, and its other half that checks them."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gmi_registry.errors import InputError
from gmi_registry.sanitize import add_secret
from gmi_registry.signature.extra import signing_library

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

__all__ = ["PrivateKey", "PublicKey"]

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_KEY_LIMIT = 64 * 1024
_NEW_KEY = "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem"


@dataclass(frozen=True)
class PublicKey:
    """A key on the curve P-256, P-384 or P-521 that tells whether its other half signed.

    ``pem`` is the key as openssl writes it (SubjectPublicKeyInfo).
    """

    pem: bytes

    @classmethod
    def read(cls, path: str | Path) -> PublicKey:
        """The key in a PEM file.

        Raises InputError for a file that holds no such key, MissingExtraError without the extra
        ``sign``.
        """
        signing_library()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        content = _content(Path(path))
        try:
            key = load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm) as error:
            quoted = shlex.quote(str(path))
            private = b"PRIVATE KEY-----" in content
            what = "holds a private key" if private else "holds no public key in PEM"
            raise InputError(
                f"{path} {what}, and a signature is checked with a public one",
                hint=f"openssl pkey -in {quoted if private else 'KEY'} -pubout -out key.pub",
            ) from error
        return cls(_pem(_on_known_curve(key, path)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of ``pem``: what ``sha256sum`` says of a file that openssl wrote."""
        return hashlib.sha256(self.pem).hexdigest()

    def __str__(self) -> str:
        return f"the key {self.fingerprint}"


@dataclass(frozen=True)
class PrivateKey:
    """A key on the curve P-256, P-384 or P-521 that signs, in the PEM file ``path``."""

    path: Path
    passphrase: str | None = field(repr=False)
    public: PublicKey

    @classmethod
    def read(cls, path: str | Path, passphrase: str | None = None) -> PrivateKey:
        """The key in a PEM file, which ``passphrase`` opens where it is encrypted.

        Raises InputError for a file that holds no such key or needs another passphrase,
        MissingExtraError without the extra ``sign``.
        """
        signing_library()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        add_secret(passphrase)
        path = Path(path)
        content = _content(path)
        if passphrase is None and is_encrypted(content):
            raise InputError(
                f"{path} is encrypted, and no passphrase is given",
                hint="put it into an environment variable, and name that with --passphrase-env",
            )
        if passphrase is not None and not is_encrypted(content):
            passphrase = None
        try:
            key = load_pem_private_key(content, None if passphrase is None else passphrase.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            # What the library says is left out: it may quote from the file.
            if passphrase is not None:
                raise InputError(
                    f"{path} cannot be opened with this passphrase",
                    hint="give the one that the key was encrypted with",
                ) from None
            raise InputError(f"{path} holds no private key in PEM", hint=_NEW_KEY) from error
        return cls(path, passphrase, PublicKey(_pem(_on_known_curve(key.public_key(), path))))

    @staticmethod
    def needs_passphrase(path: str | Path) -> bool:
        """Whether the key in a PEM file is encrypted. Raises InputError where none can be read."""
        return is_encrypted(_content(Path(path)))


def is_encrypted(pem: bytes) -> bool:
    """Whether a private key can be read with a passphrase only; PKCS#8 and openssl's old form."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem


def _content(path: Path) -> bytes:
    try:
        # The signing library opens a private key by its name once more, which no pipe survives.
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise InputError(f"{path} {what}, so no key can be read from it", hint=_NEW_KEY)
        with path.open("rb") as stream:
            content = stream.read(_KEY_LIMIT + 1)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}",
            hint="name a file that you may read",
        ) from error
    if len(content) > _KEY_LIMIT:
        raise InputError(f"{path} has more than {_KEY_LIMIT:,} bytes, and is no key", hint=_NEW_KEY)
    return content


def _on_known_curve(key: object, path: str | Path) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise InputError(
            f"{path} holds a key of another kind than {', '.join(_CURVES.values())}", hint=_NEW_KEY
        )
    return key


def _pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
