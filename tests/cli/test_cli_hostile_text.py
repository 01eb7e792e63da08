"""Whatever strangers write, the terminal shows: nothing of it acts, and no secret is among it."""

from __future__ import annotations

import base64
import http.server
import json
import re
import secrets
import sys
import threading
import urllib.parse

import pytest

from gmi_registry.cli import main
from gmi_registry.spec import write_spec
from tests.support.cli_specs import make_spec

# Of each kind one: control characters of both ranges, marks of direction, characters without width,
# separators of lines, half of a surrogate pair, tags, fillers.
HOSTILE = (
    "\x1b[2J\x07\r\x00\x7f\x9b\x85\u061c\u200b\u200e\u200f\u2028\u2029\u202e\u2060\u2066\ufeff"
)
HOSTILE += "\U000e0041\u3164\u00ad"
RAW = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
# The format lets these into titles and tags; it refuses the others where they are read.
ALLOWED = "\u200b\u200d\u200e\u200f\u061c\u2060\ufeff\u3164\u00ad\U000e0041"


@pytest.fixture
def run(monkeypatch, capfd):
    """Run ``gmi`` in this process, streams included: ``run("spec", "show", folder)``."""

    def program(*arguments):
        monkeypatch.setattr(sys, "argv", ["gmi", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return program


@pytest.fixture
def hub(tmp_path):
    """A hub whose two models say what the format lets them say."""
    from gmi_registry.hubs import LocalHub

    root = tmp_path / "hub"
    LocalHub.create(root, tmp_path / "hub-cache")
    for number in range(2):
        folder = root / "models" / f"m{number}"
        folder.mkdir()
        words = {
            "title": f"T{ALLOWED}t",
            "tags": (f"t{ALLOWED}g", "plain"),
            "licence": f"l{ALLOWED}",
        }
        spec = make_spec(f"m{number}", seed=number, base_model=f"b{ALLOWED}", **words)
        write_spec(spec, folder)
    return root


def broken(folder, **changes):
    """A specification whose manifest has ``changes`` in ``model``."""
    write_spec(make_spec("flat"), folder)
    place = folder / "gmi" / "spec.json"
    document = json.loads(place.read_bytes())
    document["model"] |= changes
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    place.write_text(text, encoding="utf-8")
    return folder


def test_hostile_text_in_every_field_of_a_broken_specification(run, tmp_path):
    fields = {
        "title": HOSTILE,
        "tags": [HOSTILE],
        "licence": {HOSTILE: HOSTILE},
        "id": HOSTILE,
        "weights": [{HOSTILE: 1}],
        "kind": HOSTILE * 500,
        "url": f"https://{HOSTILE}",
        HOSTILE: {HOSTILE: [HOSTILE]},
    }
    for number, (name, value) in enumerate(fields.items()):
        folder = broken(tmp_path / f"m{number}", **{name: value})
        for command in (("show",), ("verify",), ("show", "--json"), ("verify", "--json")):
            code, out, err = run("spec", command[0], folder, *command[1:])
            assert code == 1, name
            assert not RAW.search(out + err), (name, command)
            assert len(err) < 9000
            if out and "--json" in command:
                json.loads(out)


@pytest.mark.parametrize(
    "options", [(), ("--json",), ("-q",), ("--verbose",), ("--tag", f"t{ALLOWED}g")]
)
def test_models_that_say_what_the_format_lets_them(run, hub, tmp_path, options):
    page = tmp_path / "page.html"
    code, out, err = run("search", "--like", "local:m0", "--hub", hub, "--html", page, *options)
    assert code == 0, err
    assert not RAW.search(out + err)
    if "--json" in options:
        (found,) = json.loads(out)["results"]
        assert (found["title"], found["tags"][0]) == (f"T{ALLOWED}t", f"t{ALLOWED}g")
    shown = page.read_text(encoding="utf-8")
    assert "\\u200f" in shown
    assert not RAW.search(shown)


def test_shown_differences_and_indexes(run, hub, tmp_path):
    first, second = hub / "models" / "m0", hub / "models" / "m1"
    for command in (
        ("spec", "show", first),
        ("spec", "show", first, "--json"),
        ("spec", "diff", first, second),
        ("spec", "diff", first, second, "--html", tmp_path / "page.html"),
        ("index", "build", tmp_path / "index", "--hub", hub),
        ("index", "info", tmp_path / "index"),
    ):
        _, out, err = run(*command)
        assert out + err, command
        assert not RAW.search(out + err), command
    assert not RAW.search((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_names_of_files_and_options(run, tmp_path):
    name = f"a\x1b[2J\u202e\u2028\udcff{HOSTILE[4:]}".replace("\x00", "").replace("\r", "")
    folder = tmp_path / name
    folder.mkdir()
    write_spec(make_spec("flat"), folder)
    (folder / "p.png").write_bytes(b"no picture")
    for command in (
        ("spec", "verify", folder),  # names that their owner gave stay usable
        ("spec", "show", tmp_path / f"{name}x"),
        ("search", folder / "p.png", "--hub", tmp_path),
        ("search", "--like", name, "--hub", name),
        ("publish", name, "--hub", name),
        (f"--{name}",),
        (name,),
        ("index", "build", folder / "p.png"),
        ("registry", "check", folder / "nothing"),
    ):
        code, out, err = run(*command)
        assert not RAW.search(out + err), command
        assert (code == 0) == (command[:2] == ("spec", "verify")), (command, out, err)


def test_a_fault_of_the_program_shows_no_raw_text_either(run, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError(f"one {HOSTILE} two?token=a1b2c3d4e5")

    monkeypatch.setattr("gmi_registry.cli.spec.find_spec", fail)
    code, out, err = run("spec", "show", ".")
    assert code == 1
    assert "Traceback" in err
    assert "ZeroDivisionError" in err
    assert not RAW.search(out + err)
    assert "a1b2c3d4e5" not in err


class EchoingHub(http.server.BaseHTTPRequestHandler):
    """Refuses everything, and says in every way which token it was sent."""

    def do_GET(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        said = " | ".join(
            (
                token,
                token.swapcase(),
                urllib.parse.quote(token, safe=""),
                base64.b64encode(token.encode()).decode(),
                token.encode().hex(),
                token[: len(token) * 3 // 4],
            )
        )
        body = json.dumps({"error": said, "message": said}).encode()
        self.server.tokens.add(token)
        self.send_response(403)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("X-Error-Message", said),
            ("X-Request-Id", token),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_POST = do_GET  # noqa: N815, the names are http.server's

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("model", ["hf:owner/name", "civitai:12@34"])
def test_a_hub_that_echoes_the_token(start, tmp_path, model):
    token = "p@ss/w:rd+%41=~" + secrets.token_hex(8)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), EchoingHub) as server:
        server.tokens = set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        done = start(
            "main",
            *("publish", model, "--dry-run", "--verbose"),
            HF_ENDPOINT=endpoint,
            CIVITAI_ENDPOINT=endpoint,
            HF_HOME=str(tmp_path),
            HF_TOKEN=token,
            CIVITAI_TOKEN=token,
            GMI_REGISTRY="owner/specs",
            HF_DEBUG="1",
        )
        server.shutdown()
    assert token in server.tokens
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    said = done.stdout + done.stderr
    said = (said + urllib.parse.unquote(said)).casefold()
    encoded = base64.b64encode(token.encode()).decode(), token.encode().hex()
    for text in (token, *encoded):
        parts = {text[i : i + 10].casefold() for i in range(len(text) - 13)}
        assert not any(part in said for part in parts)
