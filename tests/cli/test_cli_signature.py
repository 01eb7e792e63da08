"""``gmi spec sign`` and ``gmi spec verify --signature``: who signed, in one line each."""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec

from gmi_registry.cli.main import app
from gmi_registry.errors import install_command
from gmi_registry.hubs import LocalHub
from gmi_registry.spec import write_spec
from tests.support.cli_specs import make_spec

PASSPHRASE = "correct horse"


@pytest.fixture
def keys(tmp_path):
    """Makes ``NAME.pem`` and ``NAME.pub``, and returns both."""

    def make(name="author", passphrase=None):
        key = ec.generate_private_key(ec.SECP256R1())
        hidden = (
            pem.BestAvailableEncryption(passphrase.encode()) if passphrase else pem.NoEncryption()
        )
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        private.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, hidden))
        public.write_bytes(
            key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        )
        return private, public

    return make


@pytest.fixture
def signed(call, folder, keys):
    """A signed specification, and the public key."""
    place = folder()
    private, public = keys()
    assert call(app, "spec", "sign", place, "--key", private).exit_code == 0
    return place, public


def last(done):
    """The line on the signature, and the hint after it."""
    lines = done.stdout.splitlines()
    (place,) = (n for n, line in enumerate(lines) if line.startswith("signature "))
    return lines[place], lines[place + 1 :]


def refused(done, *said):
    assert done.exit_code == 1
    line, hint = last(done)
    assert line.split()[:2] == ["signature", "failed"]
    assert len(hint) == 1
    assert hint[0].strip().startswith("hint: ")
    assert [text for text in said if text not in line] == []


def test_who_signed(call, signed):
    place, public = signed
    print_of = hashlib.sha256(public.read_bytes()).hexdigest()
    for wanted in ((), ("--signature",)):
        done = call(app, "spec", "verify", place, *wanted, "--key", public)
        assert done.exit_code == 0
        assert last(done) == (f"signature ok       signed by the key {print_of}", [])


def test_signing_says_where_and_who(call, folder, keys):
    place = folder()
    private, public = keys()
    print_of = hashlib.sha256(public.read_bytes()).hexdigest()
    done = call(app, "spec", "sign", place / "gmi", "--key", private)
    path = place / "gmi" / "spec.sig"
    assert done.stdout == f"signature: {path}\nsigned by: the key {print_of}\n"
    done = call(app, "spec", "sign", place, "--key", private, "--json")
    assert json.loads(done.stdout) == {"signature": str(path), "signer": f"the key {print_of}"}


def test_without_being_asked_no_signature_is_looked_at(call, signed):
    place, _ = signed
    (place / "gmi" / "spec.sig").write_text("damaged")
    done = call(app, "spec", "verify", place)
    assert done.exit_code == 0
    assert "signature" not in done.stdout


def test_another_key(call, signed, keys):
    place, public = signed
    _, other = keys("other")
    done = call(app, "spec", "verify", place, "--key", other)
    refused(done, hashlib.sha256(public.read_bytes()).hexdigest(), "and not by the key")


def test_no_signature(call, folder, keys):
    refused(call(app, "spec", "verify", folder(), "--key", keys()[1]), "spec.sig is missing")


def test_a_damaged_signature(call, signed):
    place, public = signed
    (place / "gmi" / "spec.sig").write_text('{"mediaType": 1}')
    refused(call(app, "spec", "verify", place, "--key", public), "is damaged, or no signature")


def test_changed_since(call, signed):
    place, public = signed
    path = place / "gmi" / "spec.sig"
    old = path.read_bytes()
    write_spec(make_spec(title="Another title"), place)
    path.write_bytes(old)
    refused(call(app, "spec", "verify", place, "--key", public), "this one was changed since")


def test_the_signature_of_another_specification(call, signed, folder, tmp_path):
    place, public = signed
    other = folder("oil", seed=3)
    done = call(
        app, "spec", "verify", other, "--key", public,
        "--signature-file", place / "gmi" / "spec.sig",
    )  # fmt: skip
    refused(done, "of another specification")


@pytest.mark.parametrize("name", ["spec.json", "spec.tensors"])
def test_a_broken_specification(call, signed, name):
    place, public = signed
    path = place / "gmi" / name
    path.write_bytes(path.read_bytes()[:-1])
    done = call(app, "spec", "verify", place, "--key", public)
    assert done.exit_code == 1
    assert "signature failed   not checked, since the specification is broken" in done.stdout


def test_other_weights_do_not_touch_the_signature(call, signed):
    place, public = signed
    (place / "w.safetensors").write_bytes(b"others")
    done = call(app, "spec", "verify", place, "--key", public)
    assert done.exit_code == 1
    assert "signature ok" in done.stdout


def test_verify_json(call, signed, keys):
    place, public = signed
    found = json.loads(call(app, "spec", "verify", place, "--key", public, "--json").stdout)
    assert found["ok"] is True
    assert found["findings"][-1]["check"] == "signature"
    done = call(app, "spec", "verify", place, "--key", keys("other")[1], "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert found["ok"] is False
    assert found["findings"][-1]["status"] == "failed"
    assert found["findings"][-1]["hint"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--signature",), "checked against one signer"),
        (("--identity", "a@example.org"), "checked against one signer"),
        (("--identity-provider", "https://example.org"), "checked against one signer"),
        (("--key", "KEY", "--identity", "a@example.org"), "checked against one signer"),
        (("--signature-file", "x.sig"), "checked against one signer"),
        (("--key", "none.pub"), "does not exist"),
        (("--key", "PRIVATE"), "holds a private key"),
        (
            ("--identity", "a@example.org", "--identity-provider", "https://x", "--offline"),
            "come over the network, which is switched off",
        ),
    ],
)
def test_what_is_asked_for_makes_no_sense(call, folder, keys, arguments, said):
    private, public = keys()
    known = {"KEY": public, "PRIVATE": private}
    done = call(app, "spec", "verify", folder(), *(known.get(text, text) for text in arguments))
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


def test_an_identity_that_did_not_sign(call, signed):
    place, public = signed
    done = call(
        app, "spec", "verify", place,
        "--identity", "someone@example.org", "--identity-provider", "https://login.example.org",
    )  # fmt: skip
    refused(
        done,
        hashlib.sha256(public.read_bytes()).hexdigest(),
        "and not by someone@example.org, known to https://login.example.org",
    )


@pytest.mark.parametrize("arguments", [(), ("--key", "KEY", "--sigstore")])
def test_signing_with_nothing_or_with_both(call, folder, keys, arguments):
    place = folder()
    private, _ = keys()
    done = call(
        app, "spec", "sign", place, *(private if text == "KEY" else text for text in arguments)
    )
    assert done.exit_code == 1
    assert "signed with a key, or by way of Sigstore" in done.stderr
    assert f"hint: gmi spec sign {place} --key" in done.stderr


def test_only_what_is_on_this_disk_is_signed(call, keys):
    done = call(app, "spec", "sign", "hf:owner/name", "--key", keys()[0])
    assert done.exit_code == 1
    assert "is not a folder" in done.stderr


def test_a_passphrase_from_the_environment(call, folder, keys, monkeypatch):
    place = folder()
    private, public = keys(passphrase=PASSPHRASE)
    monkeypatch.setenv("MY_PASSPHRASE", PASSPHRASE)
    sign = ("spec", "sign", place, "--key", private)
    done = call(app, *sign, "--passphrase-env", "MY_PASSPHRASE")
    assert done.exit_code == 0
    assert call(app, "spec", "verify", place, "--key", public).exit_code == 0
    said = done.output
    monkeypatch.setenv("MY_PASSPHRASE", "wrong horse")
    for arguments, why in (
        ((), "is encrypted, and no passphrase is given"),
        (("--passphrase-env", "MY_PASSPHRASE"), "cannot be opened with this passphrase"),
        (("--passphrase-env", PASSPHRASE), "is not set, or is empty"),
    ):
        done = call(app, *sign, *arguments)
        assert done.exit_code == 1
        assert why in done.stderr
        said += done.output
    assert "horse" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminal to ask at")
def test_a_passphrase_is_asked_for_at_a_terminal(folder, keys, call):
    import pty

    place = folder()
    private, public = keys(passphrase=PASSPHRASE)
    ours, theirs = pty.openpty()
    code = "from gmi_registry.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "spec", "sign", place, "--key", private],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    ) as program:
        os.close(theirs)
        shown = b""
        # The blank comes once echoing is off; what is typed before that is thrown away.
        while not shown.endswith(b": "):
            assert select.select([ours], [], [], 60)[0], shown
            shown += os.read(ours, 1000)
        assert b"Passphrase of" in shown
        os.write(ours, PASSPHRASE.encode() + b"\n")
        assert program.stdout is not None
        assert b"signed by: the key" in program.stdout.read()
        assert program.wait(60) == 0
    os.close(ours)
    assert PASSPHRASE.encode() not in shown
    assert call(app, "spec", "verify", place, "--key", public).exit_code == 0


def test_a_token_that_is_not_set(call, folder):
    done = call(
        app, "spec", "sign", folder(), "--sigstore", "--identity-token-env", "NO_SUCH_TOKEN"
    )
    assert done.exit_code == 1
    assert "--identity-token-env names is not set" in done.stderr
    assert "NO_SUCH_TOKEN" not in done.stderr


def test_a_model_of_a_local_hub(call, folder, keys, tmp_path):
    hub = tmp_path / "hub"
    LocalHub.create(hub, tmp_path / "cache")
    folder().rename(hub / "models" / "flat")
    private, public = keys()
    verify = ("spec", "verify", "local:flat", "--hub", f"local:{hub}", "--key", public)
    refused(call(app, *verify), "spec.sig is missing")
    assert call(app, "spec", "sign", hub / "models" / "flat", "--key", private).exit_code == 0
    assert call(app, *verify).exit_code == 0
    elsewhere = tmp_path / "elsewhere.sig"
    (hub / "models" / "flat" / "gmi" / "spec.sig").rename(elsewhere)
    (hub / "models" / "flat" / "gmi" / "spec.sig").symlink_to(elsewhere)
    refused(call(app, *verify), "is a symbolic link")
    assert call(app, *verify, "--signature-file", elsewhere).exit_code == 0


def test_without_the_extra(start, folder, keys):
    """As where model-signing is not installed; the rest of the command works all the same."""
    place = folder()
    _, public = keys()
    blocked = Path(place).parent / "blocked"
    (blocked / "model_signing").mkdir(parents=True)
    (blocked / "model_signing" / "__init__.py").write_text("raise ImportError('blocked')")
    paths = os.pathsep.join([str(blocked), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = start("main", "spec", "verify", place, "--key", public, PYTHONPATH=paths)
    assert done.returncode == 1
    assert done.stderr.endswith(f"hint: {install_command('sign')}\n")
    assert start("main", "spec", "verify", place, PYTHONPATH=paths).returncode == 0
