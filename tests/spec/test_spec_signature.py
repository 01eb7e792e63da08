"""Signatures: what holds, what does not, and that a hostile file leads nowhere."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_spec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_signing.verifying import Config as Verifying

from gmi_registry.errors import (
    DigestMismatchError,
    GmiError,
    InputError,
    MissingExtraError,
    SpecError,
    SpecFormatError,
    SpecNotFoundError,
)
from gmi_registry.signature import (
    SIGNATURE_LIMIT,
    SIGNATURE_NAME,
    Identity,
    PrivateKey,
    PublicKey,
    sign_spec,
    verify_signature,
)
from gmi_registry.spec import MANIFEST_NAME, SPEC_DIR, TENSORS_NAME, ModelRef, Spec, write_spec

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")

PASSPHRASE = "correct horse"
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


@pytest.fixture(scope="module")
def key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def private(key: Key, tmp_path: Path) -> PrivateKey:
    return PrivateKey.read(key_file(tmp_path / "key.pem", key))


@pytest.fixture
def public(private: PrivateKey) -> PublicKey:
    return private.public


@pytest.fixture
def model(spec: Spec, tmp_path: Path) -> Path:
    """A model that nobody has signed."""
    write_spec(spec, tmp_path / "model", preview=b"RIFF\x00\x00\x00\x00WEBPVP8 ")
    return tmp_path / "model"


@pytest.fixture
def signed(model: Path, private: PrivateKey) -> Path:
    sign_spec(model, private)
    return model


def signature(model: Path) -> Path:
    return model / SPEC_DIR / SIGNATURE_NAME


def digests(model: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((model / SPEC_DIR / name).read_bytes()).hexdigest()
        for name in (MANIFEST_NAME, TENSORS_NAME)
    }


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


def put(model: Path, bundle: Any) -> None:
    text = bundle if isinstance(bundle, str) else json.dumps(bundle)
    signature(model).write_text(text, encoding="utf-8")


def refusal(model: Path, by: PublicKey | Identity, kind: type[GmiError] = SpecError) -> str:
    """The one line that a refused signature gives, within the time that a reader may need."""
    began = time.perf_counter()
    with pytest.raises(kind) as caught:
        verify_signature(model, by)
    assert time.perf_counter() - began < 2
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_what_is_signed_is_verified(
    curve: ec.EllipticCurve, model: Path, spec: Spec, tmp_path: Path
) -> None:
    key = ec.generate_private_key(curve)
    before = {path: path.read_bytes() for path in (model / SPEC_DIR).iterdir()}
    path, signer = sign_spec(model, PrivateKey.read(key_file(tmp_path / "k", key)))
    assert path == signature(model)
    assert signer == PublicKey.read(public_file(tmp_path / "k.pub", key))
    assert verify_signature(model, PublicKey.read(tmp_path / "k.pub")) == spec.digest
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in (model / SPEC_DIR).iterdir()} == {
        MANIFEST_NAME,
        TENSORS_NAME,
        "preview.webp",
        SIGNATURE_NAME,
    }
    assert sorted(item.name for item in model.iterdir()) == [SPEC_DIR]
    assert path.stat().st_mode & 0o777 == (model / SPEC_DIR / MANIFEST_NAME).stat().st_mode & 0o777
    assert path.stat().st_size < SIGNATURE_LIMIT / 8


def test_a_fingerprint_is_the_digest_of_the_file(key: Key, tmp_path: Path) -> None:
    path = public_file(tmp_path / "k.pub", key)
    found = PublicKey.read(path)
    assert found.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.fingerprint in str(found)


def test_the_library_by_itself_verifies_it(signed: Path, key: Key, tmp_path: Path) -> None:
    by = public_file(tmp_path / "k.pub", key)
    config = Verifying().use_elliptic_key_verifier(public_key=by).set_ignore_unsigned_files(True)
    config.verify(signed / SPEC_DIR, signature(signed))
    (signed / SPEC_DIR / TENSORS_NAME).write_bytes(b"other")
    with pytest.raises(ValueError, match=r"spec\.tensors"):
        config.verify(signed / SPEC_DIR, signature(signed))


def test_one_made_by_hand_holds(model: Path, key: Key, public: PublicKey, spec: Spec) -> None:
    put(model, hand_signed(key, payload([*digests(model).items()])))
    assert verify_signature(model, public) == spec.digest


def test_the_preview_is_not_signed(signed: Path, public: PublicKey, spec: Spec) -> None:
    (signed / SPEC_DIR / "preview.webp").unlink()
    assert verify_signature(signed, public) == spec.digest


def test_a_new_signature_takes_the_place_of_the_old(signed: Path, tmp_path: Path) -> None:
    other = PrivateKey.read(key_file(tmp_path / "o", ec.generate_private_key(ec.SECP256R1())))
    sign_spec(signed, other)
    assert verify_signature(signed, other.public)


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_a_key_with_a_passphrase(form: str, model: Path, key: Key, tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(
        key.private_bytes(
            pem.Encoding.PEM,
            getattr(pem.PrivateFormat, form),
            pem.BestAvailableEncryption(PASSPHRASE.encode()),
        )
    )
    assert PrivateKey.needs_passphrase(path)
    opened = PrivateKey.read(path, PASSPHRASE)
    assert PASSPHRASE not in repr(opened)
    sign_spec(model, opened)
    assert verify_signature(model, opened.public)
    for wrong, said in ((None, "no passphrase is given"), ("wrong horse", "this passphrase")):
        with pytest.raises(InputError, match=said) as caught:
            PrivateKey.read(path, wrong)
        assert "horse" not in caught.value.message


def test_a_passphrase_that_is_not_needed(private: PrivateKey) -> None:
    assert not PrivateKey.needs_passphrase(private.path)
    assert PrivateKey.read(private.path, PASSPHRASE).public == private.public


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


@pytest.mark.parametrize("name", sorted(KEYS))
def test_what_is_no_key_of_this_kind(name: str, tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(KEYS[name])
    readers: list[Callable[[Path], object]] = [PrivateKey.read, PublicKey.read]
    for reader, good in zip(readers, ("private", "public"), strict=True):
        if name == good:
            continue
        with pytest.raises(InputError) as caught:
            reader(path)
        assert "\n" not in caught.value.message
        assert caught.value.hint
        assert "openssl" in caught.value.hint


@pytest.mark.parametrize("reader", [PrivateKey.read, PublicKey.read, PrivateKey.needs_passphrase])
def test_a_key_that_is_not_there(reader: Callable[[Path], object], tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none", "does not exist"), (tmp_path, "is not a file")):
        with pytest.raises(InputError, match=said):
            reader(path)


def test_another_key(signed: Path, private: PrivateKey, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    by = PublicKey.read(public_file(tmp_path / "o.pub", other))
    said = refusal(signed, by)
    assert by.fingerprint in said
    assert private.public.fingerprint in said


def test_another_key_that_says_it_is_the_right_one(model: Path, public: PublicKey) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    put(model, hand_signed(other, payload([*digests(model).items()]), hint=public.fingerprint))
    assert "does not hold" in refusal(model, public)


def test_no_signature(model: Path, public: PublicKey) -> None:
    assert "is missing" in refusal(model, public)


def test_the_signature_of_another_specification(
    signed: Path, public: PublicKey, make_spec: small_spec.MakeSpec
) -> None:
    old = signature(signed).read_bytes()
    write_spec(make_spec(gamma=0.03), signed)
    signature(signed).write_bytes(old)
    assert "another specification, or this one was changed" in refusal(signed, public)


def test_tensors_changed_since(signed: Path, public: PublicKey) -> None:
    path = signed / SPEC_DIR / TENSORS_NAME
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert TENSORS_NAME in refusal(signed, public, DigestMismatchError)


def test_in_another_models_place(signed: Path, public: PublicKey) -> None:
    there = ModelRef.parse("hf:someone/model")
    assert verify_signature(signed, public, expected=there)
    with pytest.raises(SpecFormatError, match="but was found at"):
        verify_signature(signed, public, expected=ModelRef.parse("hf:another/model"))


def _without(part: str) -> Callable[[dict[str, Any]], Any]:
    return lambda bundle: {name: value for name, value in bundle.items() if name != part}


def _set(*path: str | int, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(bundle: dict[str, Any]) -> Any:
        part: Any = bundle
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value
        return bundle

    return change


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
    "a second envelope": _set("dsse_envelope", value={}),
    "a message beside the envelope": _set("messageSignature", value={}),
    "a second payload": _set("dsseEnvelope", "payload_type", value=PAYLOAD_TYPE),
    "another media type": _set("mediaType", value="application/json"),
    "no media type": _without("mediaType"),
    "no envelope": _without("dsseEnvelope"),
    "no material": _without("verificationMaterial"),
    "nobody": _set("verificationMaterial", value={"tlogEntries": []}),
    "a key without a hint": _set("verificationMaterial", "publicKey", value={}),
    "a hint in capitals": _set("verificationMaterial", "publicKey", "hint", value="A" * 64),
    "a key and a certificate": _set("verificationMaterial", "certificate", value={"rawBytes": ""}),
    "no certificate": _set(
        "verificationMaterial", value={"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}
    ),
    "payload no text": _set("dsseEnvelope", "payload", value=7),
    "payload no base64": _set("dsseEnvelope", "payload", value="*" * 40),
    "payload no JSON": _set("dsseEnvelope", "payload", value="AAAA"),
    "payload empty": _set("dsseEnvelope", "payload", value="e30="),
    "other payload type": _set("dsseEnvelope", "payloadType", value="text/plain"),
    "no signatures": _set("dsseEnvelope", "signatures", value=[]),
    "two signatures": _set("dsseEnvelope", "signatures", value=[{"sig": ""}, {"sig": ""}]),
    "signatures of a wrong type": _set("dsseEnvelope", "signatures", value={"sig": "AAAA"}),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_signature(name: str, signed: Path, public: PublicKey) -> None:
    put(signed, DAMAGES[name](json.loads(signature(signed).read_text("utf-8"))))
    said = refusal(signed, public, SpecFormatError)
    assert "is damaged, or no signature" in said
    assert len(said) < 500


def _told(*path: str | int, value: Any) -> Callable[[dict[str, Any]], Any]:
    return _set(*path, value=value)


UNTOLD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another statement": _told("_type", value="https://in-toto.io/Statement/v0.1"),
    "the predicate before 1.0": _told("predicateType", value="https://model_signing/Digests/v0.1"),
    "no subject": _told("subject", value=[]),
    "digests that do not add up": _told("subject", 0, "digest", "sha256", value="0" * 64),
    "another algorithm": _told("predicate", "resources", 0, "algorithm", value="blake3"),
    "a digest cut short": _told("predicate", "resources", 0, "digest", value="00"),
    "a name that is none": _told("predicate", "resources", 0, "name", value=None),
    "a file twice": _told("predicate", "resources", 0, "name", value=TENSORS_NAME),
    "many files": _told("predicate", "resources", value=[{}] * 200),
}


@pytest.mark.parametrize("name", sorted(UNTOLD))
def test_a_statement_of_another_kind(name: str, model: Path, key: Key, public: PublicKey) -> None:
    """Signed with the right key, and still not what a signature of a specification states."""
    told = UNTOLD[name](payload([*digests(model).items()]))
    put(model, hand_signed(key, told))
    assert "is damaged, or no signature" in refusal(model, public, SpecFormatError)


def test_a_statement_that_was_changed(signed: Path, public: PublicKey) -> None:
    bundle = json.loads(signature(signed).read_text("utf-8"))
    told = payload([(MANIFEST_NAME, "0" * 64), (TENSORS_NAME, "1" * 64)])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(told).encode()).decode()
    put(signed, bundle)
    assert "does not hold" in refusal(signed, public)


@pytest.mark.parametrize("mark", ["", "AAAA", "*" * 12, "MEUCIQ=="])
def test_a_mark_that_was_changed(mark: str, signed: Path, public: PublicKey) -> None:
    bundle = json.loads(signature(signed).read_text("utf-8"))
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = mark
    put(signed, bundle)
    assert "does not hold" in refusal(signed, public)


def test_a_signature_of_one_file_only(model: Path, key: Key, public: PublicKey) -> None:
    here = digests(model)
    for files in ([], [(MANIFEST_NAME, here[MANIFEST_NAME])]):
        put(model, hand_signed(key, payload(files)))
        assert f"and not of {MANIFEST_NAME} and {TENSORS_NAME}" in refusal(model, public)


def test_a_signature_that_leaves_a_file_out(model: Path, key: Key, public: PublicKey) -> None:
    """The library skips what a signature says to skip, on both sides."""
    here = digests(model)
    for files in ([(MANIFEST_NAME, here[MANIFEST_NAME])], [*here.items()]):
        told = payload(files, ignore_paths=[TENSORS_NAME])
        put(model, hand_signed(key, told))
        refusal(model, public)
    put(model, hand_signed(key, payload([*here.items()], ignore_paths=["../../..", "/", "x"])))
    assert verify_signature(model, public)


@posix
@pytest.mark.parametrize("way", ["../bait", "{outside}/bait", "spec.json/../../bait"])
def test_no_file_outside_is_opened(
    way: str, model: Path, key: Key, public: PublicKey, tmp_path: Path
) -> None:
    """Whoever opens this pipe waits for ever."""
    for place in (tmp_path / "bait", model / "bait"):
        os.mkfifo(place)
    name = way.format(outside=tmp_path)
    for method in ("files", "shards"):
        told = payload([(name, "0" * 64)], method=method, shard_size=1)
        put(model, hand_signed(key, told))
        assert "does not hold" in (said := refusal(model, public)) or "is a signature of" in said


@posix
def test_a_pipe_a_folder_a_large_file(signed: Path, public: PublicKey) -> None:
    place = signature(signed)
    good = place.read_bytes()
    place.write_bytes(good + b" " * (SIGNATURE_LIMIT - len(good)))
    assert verify_signature(signed, public)
    place.write_bytes(good + b" " * (SIGNATURE_LIMIT + 1 - len(good)))
    assert "more than 65,536 bytes" in refusal(signed, public, SpecFormatError)
    place.unlink()
    os.mkfifo(place)
    assert "not a regular file" in refusal(signed, public, SpecFormatError)
    place.unlink()
    place.mkdir()
    assert "no signature" in refusal(signed, public, SpecFormatError)


@posix
def test_links(signed: Path, public: PublicKey, spec: Spec, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    signature(signed).rename(elsewhere)
    signature(signed).symlink_to(elsewhere)
    assert "is a symbolic link" in refusal(signed, public, SpecFormatError)
    assert verify_signature(signed, public, follow_links=True) == spec.digest
    assert verify_signature(signed, public, signature=signature(signed)) == spec.digest
    signature(signed).unlink()
    signature(signed).symlink_to(signature(signed))
    with pytest.raises(SpecError):
        verify_signature(signed, public, follow_links=True)


def test_a_signature_elsewhere(signed: Path, public: PublicKey, spec: Spec, tmp_path: Path) -> None:
    signature(signed).rename(tmp_path / "mine.sig")
    assert verify_signature(signed, public, signature=tmp_path / "mine.sig") == spec.digest
    with pytest.raises(SpecError, match="is missing"):
        verify_signature(signed, public, signature=tmp_path / "none.sig")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_character_changed(data: st.DataObject, signed: Path, public: PublicKey) -> None:
    good = signature(signed).read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    changed = good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1 :]
    other = signed.parent / "other.sig"
    other.write_bytes(changed)
    try:
        verify_signature(signed, public, signature=other)
    except SpecError:
        assert changed != good
    else:  # the same in another spelling: blanks, or unused bits of base64
        old, new = json.loads(good), json.loads(changed)
        for bundle in (old, new):
            (mark,) = bundle["dsseEnvelope"]["signatures"]
            mark["sig"] = base64.b64decode(mark["sig"])
            mark.pop("keyid", None)
            envelope = bundle["dsseEnvelope"]
            envelope["payload"] = base64.b64decode(envelope["payload"])
            bundle["verificationMaterial"].pop("tlogEntries", None)
        assert new == old


def test_what_is_no_specification_is_not_signed(signed: Path, private: PrivateKey) -> None:
    old = signature(signed).read_bytes()
    manifest = signed / SPEC_DIR / MANIFEST_NAME
    good = manifest.read_bytes()
    manifest.write_bytes(good + b"\n")
    with pytest.raises(SpecFormatError):
        sign_spec(signed, private)
    manifest.unlink()
    with pytest.raises(SpecNotFoundError):
        sign_spec(signed, private)
    assert signature(signed).read_bytes() == old


def test_where_nothing_can_be_written(model: Path, private: PrivateKey) -> None:
    signature(model).mkdir()
    (signature(model) / "kept").write_text("x")
    before = sorted(str(path) for path in model.rglob("*"))
    with pytest.raises(InputError, match=r"cannot be written: .*; nothing was changed"):
        sign_spec(model, private)
    assert sorted(str(path) for path in model.rglob("*")) == before


_MISSING = """
import sys
sys.modules[{module!r}] = None
from gmi_registry.errors import MissingExtraError
from gmi_registry.signature import PublicKey
try:
    PublicKey.read("key.pub")
except MissingExtraError as error:
    print(error.package, error.hint)
"""


@pytest.mark.parametrize(
    ("module", "package"), [("model_signing", "model-signing"), ("OpenSSL", "pyOpenSSL")]
)
def test_without_the_extra(module: str, package: str) -> None:
    code = _MISSING.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{package} pip install 'gmi-registry[sign]'\n"


def test_the_missing_extra_is_asked_for_first(
    signed: Path, public: PublicKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingExtraError):
        verify_signature(signed, public)
