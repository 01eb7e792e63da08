"""Untrained models on a folder's hub and on a loopback hub, whose specifications go out of date."""

from __future__ import annotations

import shutil
from pathlib import Path

# The tiny models, the tiny encoder and the loopback hub are those of the tests of their packages.
import numpy as np
from safetensors.numpy import load_file, save, save_file

from gmi_registry.encoders import load_encoder
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.local import LocalHub
from gmi_registry.regeneration import Options, Round
from tests.support.loopback import LoopbackHub, User
from tests.support.tiny_clip import write_tiny_clip
from tests.support.tiny_models import files_below, save_base, save_lora

__all__ = [
    "ENCODER",
    "SECRET",
    "SPEC",
    "UNFIT",
    "WEIGHTS",
    "card",
    "encoder_from",
    "fill_folder",
    "fill_loopback",
    "open_loopback",
    "other_weights",
    "round_over",
    "save_models",
    "specification",
]

ENCODER = ("tiny", "test")
SECRET = "hf_thisMustNeverBeSeen"
SPEC = ("gmi/spec.json", "gmi/spec.tensors")
WEIGHTS = "pytorch_lora_weights.safetensors"
UNFIT = save(
    {f"unet.nowhere.lora_{side}.weight": np.ones((2, 2), np.float32) for side in ("A", "B")}
)
"""A LoRA of which no base has a layer, as only loading it tells."""


def save_models(folder: Path) -> Path:
    """``base``, a checkpoint, ``lora`` upon it, and ``encoder``: copied by each test."""
    save_base(folder / "base")
    save_lora(folder / "lora", folder / "base")
    shutil.rmtree(folder / "base-vocabulary")
    write_tiny_clip(folder / "encoder")
    return folder


def card(base: str | None = None, *, tags: str = "tiny", more: str = "") -> str:
    """One step is as good as fifty for a model that was never trained."""
    said = "" if base is None else f"base_model: {base}\n"
    advice = f"gmi:\n  encoder: {'/'.join(ENCODER)}\n  steps: 1\n"
    return f"---\ntags: [{tags}]\nlicense: mit\n{said}{advice}{more}---\n# A tiny model\n"


def fill_folder(models: Path, root: Path, names: tuple[str, ...] = ("ink",)) -> LocalHub:
    """A folder's hub with ``base``, and LoRAs called ``names``; nothing is published yet."""
    hub = LocalHub.create(root, root.parent / "cache")
    shutil.copytree(models / "encoder", root.joinpath("encoders", *ENCODER))
    shutil.copytree(models / "base", root / "models" / "base")
    (root / "models" / "base" / "README.md").write_text(card())
    for name in names:
        folder = shutil.copytree(models / "lora", root / "models" / name)
        (folder / "README.md").write_text(card("base"))
    return hub


def fill_loopback(hub: LoopbackHub, models: Path, names: tuple[str, ...] = ("ink",)) -> None:
    """The same on a loopback hub, all of Alice; Bob may propose."""
    hub.add_user(User("alice", SECRET))
    hub.add_user(User("bob", "hf_thisIsOfSomebodyElse"))
    base = files_below(models / "base") | {"README.md": card().encode()}
    hub.add_repo("alice/base", base)
    for name in names:
        files = files_below(models / "lora") | {"README.md": card("alice/base").encode()}
        hub.add_repo(f"alice/{name}", files)


def other_weights(models: Path, shift: float = 0.5) -> bytes:
    """A LoRA file that is not the one in ``models``: every weight is ``shift`` larger."""
    place = models / f"other-{shift}.safetensors"
    if not place.exists():
        tensors = load_file(models / "lora" / WEIGHTS)
        save_file({name: value + shift for name, value in tensors.items()}, place)
    return place.read_bytes()


def open_loopback(hub: LoopbackHub, cache: Path, token: str = SECRET) -> HuggingFaceHub:
    """As a program that has just been started opens it."""
    return HuggingFaceHub(hub.endpoint, token=token, cache_dir=cache)


def round_over(hub, work, **wanted):
    """A round whose work lies in ``work``."""
    return Round(hub, Options(work=str(work), device="cpu"), **wanted)


def encoder_from(models: Path):
    """``load_encoder`` for the tiny encoder, which open_clip's list and remote hubs lack."""

    def load(name, pretrained, folder=None, *, device="cpu"):
        return load_encoder(name, pretrained, folder or models / "encoder", device=device)

    return load


def specification(hub: LoopbackHub, name: str, folder: Path) -> Path | None:
    """The specification of ``alice/NAME`` as it lies on the hub now, written into ``folder``."""
    files = hub.files(f"alice/{name}")
    if SPEC[0] not in files:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    for path in SPEC:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(files[path])
    return folder
