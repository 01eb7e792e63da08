"""Verification lists what it found, and never raises for it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from gmi_registry.spec import MANIFEST_NAME, TENSORS_NAME, ModelRef, WeightFile, verify, write_spec
from gmi_registry.spec.files import Finding
from tests.support import small_spec

PREVIEW = b"RIFF\x00\x00\x00\x00WEBPVP8 "
WEIGHTS = b"weights"


def statuses(findings: list[Finding]) -> dict[str, str]:
    assert all("\n" not in finding.detail for finding in findings)
    return {finding.check: finding.status for finding in findings}


@pytest.fixture
def model(make_spec: small_spec.MakeSpec, tmp_path: Path) -> Path:
    """A model whose specification, preview and weights all agree."""
    described = small_spec.parts()["model"]
    weight = WeightFile(
        path="unet/lora.safetensors",
        size=len(WEIGHTS),
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    )
    folder = tmp_path / "model"
    spec = make_spec(model=described.model_copy(update={"weights": (weight,)}))
    write_spec(spec, folder, preview=PREVIEW)
    (folder / "unet").mkdir()
    (folder / "unet" / "lora.safetensors").write_bytes(WEIGHTS)
    return folder


def test_all_is_well(model: Path) -> None:
    findings = verify(model, expected=ModelRef.parse("hf:someone/model"))
    assert statuses(findings) == dict.fromkeys(("manifest", "tensors", "preview", "weights"), "ok")


def test_other_weights(model: Path) -> None:
    (model / "unet" / "lora.safetensors").write_bytes(b"other")
    assert statuses(verify(model))["weights"] == "failed"
    assert statuses(verify(model, weights=False))["weights"] == "skipped"
    (model / "unet" / "lora.safetensors").unlink()
    assert statuses(verify(model))["weights"] == "skipped"


def test_broken_tensors(model: Path) -> None:
    path = model / "gmi" / TENSORS_NAME
    path.write_bytes(path.read_bytes()[:-1])
    found = statuses(verify(model))
    assert (found["manifest"], found["tensors"], found["weights"]) == ("ok", "failed", "ok")


def test_broken_or_other_manifest(model: Path) -> None:
    assert statuses(verify(model, expected=ModelRef.parse("hf:a/b")))["manifest"] == "failed"
    (model / "gmi" / MANIFEST_NAME).write_bytes(b"{}")
    found = statuses(verify(model))
    assert found == {
        "manifest": "failed",
        "tensors": "skipped",
        "preview": "ok",
        "weights": "skipped",
    }


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"x" * (8 * 1024 * 1024 + 1)])
def test_bad_preview(model: Path, content: bytes) -> None:
    (model / "gmi" / "preview.webp").write_bytes(content)
    assert statuses(verify(model))["preview"] == "failed"


def test_no_preview(model: Path) -> None:
    (model / "gmi" / "preview.webp").unlink()
    assert statuses(verify(model))["preview"] == "skipped"


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_links(model: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "lora.safetensors").write_bytes(WEIGHTS)
    (model / "unet" / "lora.safetensors").unlink()
    (model / "unet").rmdir()
    (model / "unet").symlink_to(outside)
    (model / "gmi" / "preview.webp").rename(outside / "preview.webp")
    (model / "gmi" / "preview.webp").symlink_to(outside / "preview.webp")
    found = statuses(verify(model))
    assert (found["preview"], found["weights"]) == ("failed", "failed")
    found = statuses(verify(model, follow_links=True))
    assert (found["preview"], found["weights"]) == ("ok", "ok")
