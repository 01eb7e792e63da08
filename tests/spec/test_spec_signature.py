"""Signatures: what holds, what does not, and that a hostile file leads nowhere."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_signing.verifying import Config as Verifying

from gmi_registry.errors import (
    DigestMismatchError,
    GmiError,
    HubError,
    InputError,
    MissingExtraError,
    SpecError,
    SpecFormatError,
    SpecNotFoundError,
    install_command,
)
from gmi_registry.signature import (
    SIGNATURE_LIMIT,
    SIGNATURE_NAME,
    Identity,
    PrivateKey,
    PublicKey,
    SigstoreAccount,
    sign_spec,
    verify_signature,
)
from gmi_registry.signature.library import certified
from gmi_registry.spec import MANIFEST_NAME, SPEC_DIR, TENSORS_NAME, ModelRef, Spec, write_spec
from tests.support import small_spec
from tests.support.hand_signed import (
    DAMAGES,
    KEYS,
    UNTOLD,
    Key,
    change,
    hand_signed,
    key_file,
    payload,
    public_file,
)
from tests.support.private_sigstore import PrivateSigstore, running

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")

PASSPHRASE = "correct horse"


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


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_signature(name: str, signed: Path, public: PublicKey) -> None:
    put(signed, DAMAGES[name](json.loads(signature(signed).read_text("utf-8"))))
    said = refusal(signed, public, SpecFormatError)
    assert "is damaged, or no signature" in said
    assert len(said) < 500


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
    assert done.stdout == f"{package} {install_command('sign')}\n"


def test_the_missing_extra_is_asked_for_first(
    signed: Path, public: PublicKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingExtraError):
        verify_signature(signed, public)


SOMEONE = "someone@example.org"


@pytest.fixture
def sigstore(tmp_path: Path) -> Iterator[PrivateSigstore]:
    with running() as found:
        (tmp_path / "trust.json").write_text(found.trust(), encoding="utf-8")
        yield found


@pytest.fixture
def trust(sigstore: PrivateSigstore, tmp_path: Path) -> Path:
    return tmp_path / "trust.json"


@pytest.fixture
def vouched(model: Path, sigstore: PrivateSigstore, trust: Path) -> Identity:
    """The model, signed without a key; and by whom."""
    _, signer = sign_spec(model, SigstoreAccount(sigstore.token(SOMEONE), trust))
    assert isinstance(signer, Identity)
    return signer


def test_sigstore_signs_and_verifies_without_being_asked_again(
    model: Path, sigstore: PrivateSigstore, vouched: Identity, trust: Path, spec: Spec
) -> None:
    assert (vouched.name, vouched.provider) == (SOMEONE, sigstore.url)
    asked = [*sigstore.asked]
    assert asked == [
        "/.well-known/openid-configuration",
        "/api/v2/signingCert",
        "/api/v1/log/entries",
    ]
    sigstore.refuses = True
    assert verify_signature(model, Identity(SOMEONE, sigstore.url, trust)) == spec.digest
    assert sigstore.asked == asked
    config = Verifying().use_sigstore_verifier(
        identity=SOMEONE, oidc_issuer=sigstore.url, trust_config=trust
    )
    config.set_ignore_unsigned_files(True).verify(model / SPEC_DIR, signature(model))


def test_another_identity(model: Path, vouched: Identity, trust: Path, public: PublicKey) -> None:
    for other in (
        Identity("other@example.org", vouched.provider, trust),
        Identity(SOMEONE, "https://example.org", trust),
        public,
    ):
        said = refusal(model, other)
        assert str(vouched) in said
        assert str(other) in said


def test_an_identity_that_did_not_sign(signed: Path, vouched: Identity, public: PublicKey) -> None:
    sign_spec(signed, PrivateKey.read(signed.parent / "key.pem"))
    assert public.fingerprint in refusal(signed, vouched)


def test_a_certificate_that_somebody_else_issued(
    model: Path, vouched: Identity, sigstore: PrivateSigstore, tmp_path: Path
) -> None:
    """It names the right person and provider, and comes from another authority."""
    forger = PrivateSigstore()
    forger.url = sigstore.url
    other = tmp_path / "other.json"
    other.write_text(forger.trust(), encoding="utf-8")
    assert "does not hold" in refusal(model, Identity(vouched.name, vouched.provider, other))
    assert verify_signature(model, vouched)


@pytest.mark.parametrize(
    "edit",
    [
        change("verificationMaterial", "tlogEntries", value=[]),
        change("verificationMaterial", "tlogEntries", 0, "inclusionPromise", value=None),
        change("verificationMaterial", "tlogEntries", 0, "integratedTime", value="1"),
        change("verificationMaterial", "tlogEntries", 0, "canonicalizedBody", value="e30="),
        change("dsseEnvelope", "signatures", 0, "sig", value="AAAA"),
    ],
)
def test_what_the_log_does_not_confirm(
    edit: Callable[[dict[str, Any]], Any], model: Path, vouched: Identity
) -> None:
    put(model, edit(json.loads(signature(model).read_text("utf-8"))))
    assert "does not hold" in refusal(model, vouched)


def test_a_vouched_signature_of_another_specification(
    model: Path, vouched: Identity, make_spec: small_spec.MakeSpec
) -> None:
    old = signature(model).read_bytes()
    write_spec(make_spec(gamma=0.03), model)
    signature(model).write_bytes(old)
    assert "another specification, or this one was changed" in refusal(model, vouched)


def test_sigstore_refuses(model: Path, sigstore: PrivateSigstore, trust: Path) -> None:
    token = sigstore.token(SOMEONE)
    bad = [sigstore.token(SOMEONE, audience="others"), "no token", token[:-4] + "AAAA"]
    for text in bad:
        with pytest.raises(HubError, match="Sigstore did not do its part: ") as caught:
            sign_spec(model, SigstoreAccount(text, trust))
        assert text not in caught.value.message
        assert text not in repr(SigstoreAccount(text, trust))
    sigstore.refuses = True
    with pytest.raises(HubError):
        sign_spec(model, SigstoreAccount(token, trust))
    assert not signature(model).exists()


def test_a_trust_file_that_is_none(signed: Path, vouched: Identity, trust: Path) -> None:
    good = json.loads(trust.read_text("utf-8"))
    for content in ("", "{}", json.dumps(good | {"trustedRoot": {}}), "[" * 50_000):
        trust.write_text(content, encoding="utf-8")
        said = refusal(signed, vouched, InputError)
        assert "cannot be used as a trust configuration" in said
        assert len(said) < 400
    trust.unlink()
    assert "No such file" in refusal(signed, vouched, InputError)


def test_without_a_network(
    model: Path, vouched: Identity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Port 9 of this machine discards: nothing listens there."""
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(HubError, match="Sigstore did not do its part"):
        verify_signature(model, Identity(vouched.name, vouched.provider))
    with pytest.raises(HubError, match="Sigstore did not do its part"):
        sign_spec(model, SigstoreAccount("token"))


@pytest.mark.parametrize(("name", "provider"), [("", "https://example.org"), (SOMEONE, "")])
def test_half_an_identity(name: str, provider: str) -> None:
    with pytest.raises(InputError, match="one is empty"):
        Identity(name, provider)


def _certificate(*names: x509.GeneralName, provider: bytes | None) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    if provider is not None:
        number = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(number, provider), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(pem.Encoding.DER)


def test_whom_a_certificate_names() -> None:
    workflow = x509.UniformResourceIdentifier("https://example.org/build.yml")
    mail, host = x509.RFC822Name(SOMEONE), x509.DNSName("example.org")
    provider = b"https://login.example.org"
    assert certified(_certificate(workflow, provider=provider)) == Identity(
        "https://example.org/build.yml", provider.decode()
    )
    nobody = [
        _certificate(provider=provider),
        _certificate(host, provider=provider),
        _certificate(mail, workflow, provider=provider),
        _certificate(mail, provider=None),
        _certificate(mail, provider=b""),
        _certificate(mail, provider=b"https://a\nsigned by you"),
        _certificate(mail, provider=b"x" * 600),
    ]
    assert [certified(item) for item in nobody] == [None] * len(nobody)
    for broken in (b"", nobody[0][:-5], _certificate(mail, provider=b"\xff")):
        with pytest.raises(ValueError, match=r"parsing|utf-8"):
            certified(broken)
