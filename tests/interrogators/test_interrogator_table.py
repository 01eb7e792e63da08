"""Modes by name, and what is said when a library or its weights are missing."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from PIL import Image

from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.errors import InputError, MissingExtraError, OfflineError, install_command
from gmi_registry.interrogators import MODES, load_interrogator, require_interrogator


def test_the_modes_and_their_order() -> None:
    assert MODES == ("none", "phrases", "caption", "clip_interrogator")


def test_none_says_nothing(encoder: OpenClipEncoder, picture: Callable[[int], Image.Image]) -> None:
    interrogator = load_interrogator("none")
    assert interrogator.mode == "none"
    assert interrogator(picture(0), encoder) is None


def test_an_unknown_mode() -> None:
    with pytest.raises(InputError, match="no interrogator is called 'blip'") as caught:
        load_interrogator("blip")
    assert caught.value.hint == "one of none, phrases, caption, clip_interrogator"


@pytest.mark.parametrize(
    ("mode", "module", "package"),
    [
        ("caption", "transformers", "transformers"),
        ("clip_interrogator", "clip_interrogator", "clip-interrogator"),
    ],
)
def test_a_missing_library(
    monkeypatch: pytest.MonkeyPatch, mode: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=package) as caught:
        load_interrogator(mode)
    assert caught.value.extra == "interrogate"
    assert caught.value.hint == install_command("interrogate")


@pytest.mark.parametrize("mode", ["caption", "clip_interrogator"])
def test_weights_that_are_not_at_hand(tmp_path: Path, mode: str) -> None:
    with pytest.raises(OfflineError, match="blip-image-captioning-large") as caught:
        load_interrogator(mode, cache_dir=tmp_path, offline=True)
    assert "\n" not in caught.value.message
    assert "hf download Salesforce/blip-image-captioning-large" in str(caught.value.hint)


@pytest.mark.parametrize("mode", ["caption", "clip_interrogator"])
def test_cached_weights_need_no_network(tmp_path: Path, blip: Path, mode: str) -> None:
    """A tiny BLIP under the real one's name, in a cache as huggingface_hub lays it out."""
    repository = tmp_path / "models--Salesforce--blip-image-captioning-large"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    shutil.copytree(blip, repository / "snapshots" / ("0" * 40))
    assert load_interrogator(mode, cache_dir=tmp_path, offline=True).mode == mode


@pytest.mark.parametrize("mode", ["caption", "clip_interrogator"])
def test_a_hub_that_is_not_there_is_told_at_once(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries would try again for minutes, and say so line by line."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(OfflineError, match="cannot be reached") as caught:
        require_interrogator(mode, cache_dir=tmp_path)
    assert "hf download" in str(caught.value.hint)
    with socket.create_server(("127.0.0.1", 0)) as open_port:
        address = f"http://127.0.0.1:{open_port.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        require_interrogator(mode, cache_dir=tmp_path)
