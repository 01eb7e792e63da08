"""Keys, identities, and the library that makes and checks signatures.

The library (model-signing) reads whatever lies in a folder, and lets a signature say what to leave
out of it. So it gets a folder of its own, with exactly the bytes that were read and checked before;
no path that a signature names leads anywhere else. What a signature file states is read strictly
before the library sees it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmi_registry.errors import GmiError, HubError, InputError, MissingExtraError, SpecFormatError
from gmi_registry.sanitize import add_secret, first_fault, one_line
from gmi_registry.spec.manifest import Sha256
from gmi_registry.spec.reference import unprintable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from model_signing.manifest import Manifest
    from model_signing.verifying import Config as Verifying


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


# Fulcio's extensions that name the provider; the newer holds a DER string, the older bare text.
_PROVIDER, _OLD_PROVIDER = "1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1"
_UTF8_STRING = 0x0C
_LONGEST = 500


@dataclass(frozen=True)
class Identity:
    """Whom a signature should be by: ``name``, as ``provider`` (an https address) knows them.

    ``name`` is an e-mail address, or the address of a workflow. ``trust`` is a file with
    Sigstore's trust configuration (ClientTrustConfig, JSON); None asks Sigstore for the present
    one over the network. Raises InputError where one of the two is empty.
    """

    name: str
    provider: str
    trust: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.name or not self.provider:
            raise InputError(
                "an identity is a name and the provider that knows it, and one is empty",
                hint="give --identity NAME and --identity-provider URL, as its owner states them",
            )

    def __str__(self) -> str:
        return f"{self.name}, known to {self.provider}"


@dataclass(frozen=True)
class SigstoreAccount:
    """What signs without a key: an identity token, or a login in the browser.

    ``token`` is an OpenID Connect token; None takes the one of the machine where it has one, as in
    a hosted workflow, and else opens the browser. ``trust`` as in :class:`Identity`. Sigstore
    enters each signature, and the identity with it, into a public log, for good.
    """

    token: str | None = field(default=None, repr=False)
    trust: Path | None = None

    def __post_init__(self) -> None:
        add_secret(self.token)


def certified(certificate: bytes) -> Identity | None:
    """Whom a certificate (DER) names; None where it names nobody in Sigstore's way.

    It is only what the certificate says: whether Sigstore issued it is not looked at here. Raises
    ValueError for what is no certificate.
    """
    signing_library()
    from cryptography import x509

    parsed = x509.load_der_x509_certificate(certificate)
    extensions = {item.oid.dotted_string: item.value for item in parsed.extensions}
    names = extensions.get(x509.SubjectAlternativeName.oid.dotted_string)
    if not isinstance(names, x509.SubjectAlternativeName):
        return None
    found: list[str] = [
        *names.get_values_for_type(x509.RFC822Name),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
    ]
    stated = (extensions.get(oid) for oid in (_PROVIDER, _OLD_PROVIDER))
    providers = [
        _extension_text(item.value)
        for item in stated
        if isinstance(item, x509.UnrecognizedExtension)
    ]
    if len(found) != 1 or not providers or not all(map(_is_plain, (found[0], providers[0]))):
        return None
    return Identity(found[0], providers[0])


def _is_plain(text: str) -> bool:
    return 0 < len(text) <= _LONGEST and not unprintable(text)


def _extension_text(value: bytes) -> str:
    short_string = len(value) >= 2 and value[0] == _UTF8_STRING and value[1] == len(value) - 2
    return (value[2:] if short_string else value).decode("utf-8")


@dataclass(frozen=True)
class Statement:
    """What the signature is about, and by whom it says it is.

    ``files`` maps names in ``gmi`` to their SHA-256 (hex). One of ``key`` (the fingerprint of a
    :class:`PublicKey`) and ``identity`` is set.
    """

    files: Mapping[str, str]
    key: str | None
    identity: Identity | None

    @classmethod
    def parse(cls, content: bytes, place: object) -> Statement:
        """Read a Sigstore bundle with the statement of model signing in it.

        Anything that two readers might take differently is refused. Raises SpecFormatError, which
        names ``place``.
        """
        try:
            return cls._parse(content)
        except (ValueError, RecursionError) as error:
            raise SpecFormatError(
                f"{place} is damaged, or no signature of a specification: {_reason(error)}",
                hint="fetch it again, or have its author sign again: gmi spec sign FOLDER",
            ) from error

    @classmethod
    def _parse(cls, content: bytes) -> Statement:
        bundle = _Bundle.model_validate(_json(content))
        payload = base64.b64decode(bundle.envelope.payload, validate=True)
        told = _Told.model_validate(_json(payload))
        files: dict[str, str] = {}
        whole = hashlib.sha256()
        for resource in told.predicate.resources:
            if resource.name in files:
                raise ValueError(f"it names {resource.name[:80]!r} twice")
            files[resource.name] = resource.digest
            whole.update(bytes.fromhex(resource.digest))
        if whole.hexdigest() != told.subject[0].digest.sha256:
            raise ValueError("its digests do not add up")
        material = bundle.material
        if material.key is not None and material.certificate is None:
            return cls(files, material.key.hint, None)
        if material.certificate is None or material.key is not None:
            raise ValueError("it names neither one key nor one certificate")
        identity = certified(base64.b64decode(material.certificate.raw, validate=True))
        if identity is None:
            raise ValueError("its certificate names nobody")
        return cls(files, None, identity)


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _Whole(_Part):
    """A part in which an unknown field could stand in for one that is checked here."""

    model_config = ConfigDict(extra="forbid")


class _Key(_Part):
    hint: Sha256


class _Certificate(_Part):
    raw: Annotated[str, Field(alias="rawBytes")]


class _Material(_Part):
    key: Annotated[_Key | None, Field(alias="publicKey")] = None
    certificate: _Certificate | None = None


class _Mark(_Whole):
    sig: str
    keyid: str = ""


class _Envelope(_Whole):
    payload: str
    payload_type: Annotated[Literal["application/vnd.in-toto+json"], Field(alias="payloadType")]
    signatures: Annotated[Sequence[_Mark], Field(min_length=1, max_length=1)]


class _Bundle(_Whole):
    media_type: Annotated[
        Literal["application/vnd.dev.sigstore.bundle.v0.3+json"], Field(alias="mediaType")
    ]
    material: Annotated[_Material, Field(alias="verificationMaterial")]
    envelope: Annotated[_Envelope, Field(alias="dsseEnvelope")]


class _WholeDigest(_Part):
    sha256: Sha256


class _Subject(_Part):
    digest: _WholeDigest


class _Resource(_Part):
    name: str
    algorithm: Literal["sha256"]
    digest: Sha256


class _Predicate(_Part):
    resources: Annotated[Sequence[_Resource], Field(max_length=100)]


class _Told(_Part):
    kind: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[Sequence[_Subject], Field(min_length=1, max_length=1)]
    predicate_kind: Annotated[
        Literal["https://model_signing/signature/v1.0"], Field(alias="predicateType")
    ]
    predicate: _Predicate


def _json(content: bytes) -> Any:
    return json.loads(content.decode("utf-8"), object_pairs_hook=_once)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has one key twice")
    return found


def _reason(error: Exception) -> str:
    """One line; nothing of what the file holds, but for names of fields."""
    if isinstance(error, ValidationError):
        return first_fault(error, 120)
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON, at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return "no UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return one_line(str(error), 160)


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
