"""What a signature file states, read strictly, before anybody has checked that it is true."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmi_registry.errors import SpecFormatError
from gmi_registry.sanitize import first_fault, one_line
from gmi_registry.signature.identity import Identity, certified
from gmi_registry.spec.fields import Sha256

__all__ = ["Statement"]


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
