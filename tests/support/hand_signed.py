"""Keys and signature files made by hand: right ones, and wrong in one way each."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gmi_registry.spec import TENSORS_NAME

PAYLOAD_TYPE = "application/vnd.in-toto+json"
Key = ec.EllipticCurvePrivateKey


def key_file(path: Path, key: Any, passphrase: str | None = None) -> Path:
    hidden = pem.BestAvailableEncryption(passphrase.encode()) if passphrase else pem.NoEncryption()
    path.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, hidden))
    return path


def public_file(path: Path, key: Any) -> Path:
    path.write_bytes(
        key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


def payload(files: list[tuple[str, str]], **serialization: Any) -> dict[str, Any]:
    whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in files)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "gmi", "digest": {"sha256": whole}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                **serialization,
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in files
            ],
        },
    }


def hand_signed(
    key: Key, told: dict[str, Any], *, hint: str | None = None, payload_type: str = PAYLOAD_TYPE
) -> dict[str, Any]:
    """A bundle as SPEC.md has it, made without the library."""
    raw = json.dumps(told).encode()
    message = b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(raw), raw)
    public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hint or hashlib.sha256(public).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(raw).decode(),
            "payloadType": payload_type,
            "signatures": [
                {"sig": base64.b64encode(key.sign(message, ec.ECDSA(hashes.SHA256()))).decode()}
            ],
        },
    }


def _keys() -> dict[str, bytes]:
    def both(key: Any) -> tuple[bytes, bytes]:
        return (
            key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()),
            key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo),
        )

    good, koblitz, edwards, numbers = (
        both(ec.generate_private_key(ec.SECP256R1())),
        both(ec.generate_private_key(ec.SECP256K1())),
        both(ed25519.Ed25519PrivateKey.generate()),
        both(rsa.generate_private_key(65537, 2048)),
    )
    return {
        "nothing": b"",
        "text": b"not a key",
        "cut": good[0][:80],
        "koblitz": koblitz[0],
        "edwards": edwards[0],
        "rsa": numbers[0],
        "large": good[0] + b"\n" * 70_000,
        "private": good[0],
        "public": good[1],
        "public koblitz": koblitz[1],
        "public edwards": edwards[1],
        "public rsa": numbers[1],
        "public cut": good[1][:60],
    }


KEYS = _keys()


def _without(part: str) -> Callable[[dict[str, Any]], Any]:
    return lambda bundle: {name: value for name, value in bundle.items() if name != part}


def change(*path: str | int, value: Any) -> Callable[[dict[str, Any]], Any]:
    def changed(bundle: dict[str, Any]) -> Any:
        part: Any = bundle
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value
        return bundle

    return changed


def _text(change: Callable[[str], str]) -> Callable[[dict[str, Any]], Any]:
    return lambda bundle: change(json.dumps(bundle))


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "empty": lambda _: "",
    "cut": _text(lambda text: text[:-9]),
    "twice": _text(lambda text: text + text),
    "not an object": lambda _: "[]",
    "null": lambda _: "null",
    "deep": lambda _: "[" * 60_000,
    "a long number": lambda _: '{"mediaType": ' + "9" * 60_000 + "}",
    "surrogates": lambda _: '{"mediaType": "\\ud800"}',
    "a key twice": _text(lambda text: text[:-1] + ', "mediaType": "x"}'),
    "a key twice inside": _text(
        lambda text: text.replace('"payload":', '"payload": "", "payload":')
    ),
    "a second envelope": change("dsse_envelope", value={}),
    "a message beside the envelope": change("messageSignature", value={}),
    "a second payload": change("dsseEnvelope", "payload_type", value=PAYLOAD_TYPE),
    "another media type": change("mediaType", value="application/json"),
    "no media type": _without("mediaType"),
    "no envelope": _without("dsseEnvelope"),
    "no material": _without("verificationMaterial"),
    "nobody": change("verificationMaterial", value={"tlogEntries": []}),
    "a key without a hint": change("verificationMaterial", "publicKey", value={}),
    "a hint in capitals": change("verificationMaterial", "publicKey", "hint", value="A" * 64),
    "a key and a certificate": change(
        "verificationMaterial", "certificate", value={"rawBytes": ""}
    ),
    "no certificate": change(
        "verificationMaterial", value={"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}
    ),
    "payload no text": change("dsseEnvelope", "payload", value=7),
    "payload no base64": change("dsseEnvelope", "payload", value="*" * 40),
    "payload no JSON": change("dsseEnvelope", "payload", value="AAAA"),
    "payload empty": change("dsseEnvelope", "payload", value="e30="),
    "other payload type": change("dsseEnvelope", "payloadType", value="text/plain"),
    "no signatures": change("dsseEnvelope", "signatures", value=[]),
    "two signatures": change("dsseEnvelope", "signatures", value=[{"sig": ""}, {"sig": ""}]),
    "signatures of a wrong type": change("dsseEnvelope", "signatures", value={"sig": "AAAA"}),
}


UNTOLD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another statement": change("_type", value="https://in-toto.io/Statement/v0.1"),
    "the predicate before 1.0": change("predicateType", value="https://model_signing/Digests/v0.1"),
    "no subject": change("subject", value=[]),
    "digests that do not add up": change("subject", 0, "digest", "sha256", value="0" * 64),
    "another algorithm": change("predicate", "resources", 0, "algorithm", value="blake3"),
    "a digest cut short": change("predicate", "resources", 0, "digest", value="00"),
    "a name that is none": change("predicate", "resources", 0, "name", value=None),
    "a file twice": change("predicate", "resources", 0, "name", value=TENSORS_NAME),
    "many files": change("predicate", "resources", value=[{}] * 200),
}
