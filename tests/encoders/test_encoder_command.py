"""``gmi encoder``: the export and the check, as somebody types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gmi_registry.cli.main import app
from gmi_registry.encoders import onnx
from gmi_registry.encoders.onnx_files import OnnxFolder
from gmi_registry.errors import install_command
from gmi_registry.hubs.local import LocalHub


@pytest.fixture(scope="module")
def hub(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("command")
    LocalHub.create(root / "hub", root / "cache")
    shutil.copytree(folder, root / "hub" / "encoders" / "tiny" / "random")
    return root / "hub"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["encoder", *arguments])


def test_an_export_lies_where_searches_on_this_machine_look(
    hub: Path, tmp_path: Path, exported: Path, halved: Path
) -> None:
    """In the place of another that lies there; every export is the same to the last bit."""
    ref = OnnxFolder(exported).description.encoder
    before = onnx.kept_export("tiny", "random", ref.id, tmp_path / "hub")
    shutil.copytree(exported, before)
    options = ["--hub", str(hub), "--cache-dir", str(tmp_path), "--half", "--json"]
    done = run("export", "tiny/random", *options)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    place = Path(document["folder"])
    assert place == before
    assert (place / "encoder.json").read_bytes() == (halved / "encoder.json").read_bytes()
    assert list(place.parent.iterdir()) == [place]
    assert document["encoder_id"] == ref.id
    assert document["weights"] == "float16"
    assert document["bytes"] == sum(file["size"] for file in document["files"].values())
    assert onnx.exports_of("tiny", "random", None, tmp_path / "hub") == [place]


def test_a_check_says_what_it_is(exported: Path) -> None:
    done = run("check", str(exported))
    assert done.exit_code == 0, done.output
    ref = OnnxFolder(exported).description.encoder
    lines = done.stdout.splitlines()
    assert lines[:2] == ["encoder: tiny/random", f"id: {ref.id}"]
    assert lines[2] == f"weights: {ref.weights_sha256} (stored as float32)"
    assert json.loads(run("check", str(exported), "--json").stdout)["encoder_id"] == ref.id


def test_a_damaged_export_does_not_pass(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    (copy / "merges.txt").write_bytes(b"a b\n")
    done = run("check", str(copy))
    assert done.exit_code == 1
    assert "merges.txt is not the file that encoder.json names" in done.stderr
    assert "hint: export the encoder again" in done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny", "does not name an encoder"),
        ("tiny/other", "has no encoder tiny/other"),
        ("../x/y", "does not name an encoder"),
    ],
)
def test_names_that_mean_nothing(hub: Path, tmp_path: Path, name: str, said: str) -> None:
    done = run("export", name, "--hub", str(hub), "--output", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_where_the_exporter_is_not_installed(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnx.find_spec
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnx" else real(name))
    done = run("export", "tiny/random", "--hub", str(hub), "--output", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "needs the package 'onnx'" in done.stderr
    assert install_command("export") in done.stderr
