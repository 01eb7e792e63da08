"""The signing library at work: on copies of the two files, and on nothing else.

The library reads whatever lies in a folder, and lets a signature say what to leave out of it. So it
gets a folder of its own, with exactly the bytes that were read and checked before; no path that a
signature names leads anywhere else.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gmi_registry.errors import GmiError, HubError, InputError
from gmi_registry.sanitize import one_line
from gmi_registry.signature.extra import signing_library
from gmi_registry.signature.identity import Identity, SigstoreAccount
from gmi_registry.signature.key import PrivateKey, PublicKey

if TYPE_CHECKING:
    from model_signing.manifest import Manifest
    from model_signing.verifying import Config as Verifying

__all__ = ["Outcome", "check", "make"]

_log = logging.getLogger(__name__)

Outcome = Literal["holds", "other files", "does not hold"]
"""``other files``: it is by whom it should be, and of other files than these."""


def make(contents: Mapping[str, bytes], by: PrivateKey | SigstoreAccount) -> bytes:
    """A signature of ``contents`` (name to bytes): a Sigstore bundle, as the library writes it.

    With a SigstoreAccount this goes over the network, and may open a browser. Raises HubError
    where Sigstore does not sign, InputError for a trust file that cannot be used.
    """
    signing_library()
    from model_signing.signing import Config

    config = Config().set_hashing_config(_hashing())
    if isinstance(by, PrivateKey):
        passphrase = None if by.passphrase is None else by.passphrase.encode()
        # The library declares a str, and hands it on to one that takes bytes only.
        config.use_elliptic_key_signer(private_key=by.path, password=passphrase)  # type: ignore[arg-type]
        with _copies(contents) as folder:
            return _made(config, folder)
    with _sigstore(by.trust), _copies(contents) as folder:
        config.use_sigstore_signer(
            use_ambient_credentials=True, identity_token=by.token, trust_config=by.trust
        )
        return _made(config, folder)


def check(contents: Mapping[str, bytes], signature: bytes, by: PublicKey | Identity) -> Outcome:
    """Whether ``signature`` is by whom it should be, and of ``contents`` (name to bytes).

    What it leaves out of its statement is for the caller to see. An Identity without a trust file
    asks Sigstore over the network for whom to trust. Raises HubError where Sigstore does not
    answer, InputError for a trust file that cannot be used.
    """
    signing_library()
    from model_signing.hashing import Config as Hashing
    from model_signing.verifying import Config

    authentic = False

    class Reached(Hashing):
        """Files are hashed once the library is content with the signature itself."""

        def hash(self, *args: Any, **settings: Any) -> Manifest:
            nonlocal authentic
            authentic = True
            return super().hash(*args, **settings)

    with _copies(contents) as folder:
        config: Verifying = Config()
        if isinstance(by, PublicKey):
            key = folder.parent / "key.pem"
            key.write_bytes(by.pem)
            config.use_elliptic_key_verifier(public_key=key)
        else:
            with _sigstore(by.trust):
                config.use_sigstore_verifier(
                    identity=by.name, oidc_issuer=by.provider, trust_config=by.trust
                )
        config.set_hashing_config(Reached())
        place = folder.parent / "signature"
        place.write_bytes(signature)
        try:
            config.verify(folder, place)
        except Exception as error:
            # What a hostile file makes the parsers in there raise is not documented, and is more
            # than their own errors. Whatever it is, the signature did not pass.
            _log.debug("a signature did not pass: %s: %s", type(error).__name__, error)
            return "other files" if authentic else "does not hold"
    return "holds"


def _hashing() -> Any:
    from model_signing.hashing import Config

    return Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _made(config: Any, folder: Path) -> bytes:
    place = folder.parent / "signature"
    config.sign(folder, place)
    return place.read_bytes()


@contextmanager
def _copies(contents: Mapping[str, bytes]) -> Iterator[Path]:
    # The folder's name becomes the subject of the statement.
    with tempfile.TemporaryDirectory(prefix="gmi-signature-") as scratch:
        folder = Path(scratch) / "gmi"
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        yield folder


@contextmanager
def _sigstore(trust: Path | None) -> Iterator[None]:
    """What keeps Sigstore from doing its part, in one line."""
    if trust is not None:
        _require_trust(trust)
    try:
        yield
    except GmiError:
        raise
    except Exception as error:
        # The library passes on what several others raise, some of it of classes without a name
        # outside of them.
        raise HubError(
            f"Sigstore did not do its part: {_said(error)}",
            hint="check the network, or use a key: gmi spec sign FOLDER --key KEY",
        ) from error


def _require_trust(trust: Path) -> None:
    from sigstore.models import ClientTrustConfig

    try:
        config = ClientTrustConfig.from_json(trust.read_text("utf-8"))
        config.trusted_root.get_fulcio_certs()
    except Exception as error:  # as above, and files may hold anything
        raise InputError(
            f"{trust} cannot be used as a trust configuration: {_said(error)}",
            hint="leave out --trust-config to use the one of the public Sigstore",
        ) from error


def _said(error: Exception) -> str:
    """One line of a library's; where it says nothing, what it was called."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = one_line(str(error), 160) or one_line(str(error.__cause__ or ""), 160)
    return said or type(error).__name__
