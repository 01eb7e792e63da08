"""Exports in the registry, fetched by the real client from a hub on this machine."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from gmi_registry.encoders import onnx
from gmi_registry.encoders.onnx import OnnxEncoder
from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.errors import DigestMismatchError, IncomparableSpecsError, MissingExtraError
from gmi_registry.hubs.huggingface import client
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.dataset import fetch_encoder_files
from gmi_registry.hubs.registry.registry import SupplementedHub
from gmi_registry.search.query import ModelLoader
from gmi_registry.search.request import SearchRequest
from gmi_registry.spec import EncoderRef
from tests.support.loopback import User, fixtures

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

REPO = "gmi-registry/specs"
hf_hub = fixtures.hf_hub


@pytest.fixture(scope="session")
def ref(exported: Path) -> EncoderRef:
    return OnnxEncoder.from_folder(exported).ref


@pytest.fixture
def hub(hf_hub: Any, monkeypatch: pytest.MonkeyPatch, exported: Path, ref: EncoderRef) -> Any:
    """A registry with one export, and beside it one of the same name that is not complete."""
    monkeypatch.setenv("GMI_REGISTRY", REPO)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(onnx, "has_torch", lambda: False)
    hf_hub.add_user(User("keeper", "hf_keeper", orgs=("gmi-registry",)))
    place = encoder_path(ref)
    files = {f"{place}/{path.name}": path.read_bytes() for path in exported.iterdir()}
    cut = f"encoders/{ref.name}/{ref.pretrained}/{'0' * 16}"
    files[f"{cut}/encoder.json"] = (exported / "encoder.json").read_bytes()
    hf_hub.add_repo(REPO, {"README.md": b"# Specifications\n", **files}, repo_type="dataset")
    yield hf_hub
    for opened in client._hook._open:
        opened.close()


def encoder_path(ref: EncoderRef) -> str:
    return f"encoders/{ref.name}/{ref.pretrained}/{ref.weights_sha256[:16]}"


def searched(tmp_path: Path, **options: Any) -> SupplementedHub:
    cache = tmp_path / "cache"
    return SupplementedHub(Registry(cache_dir=cache, **options), cache_dir=cache, **options)


def equipment(tmp_path: Path, *, offline: bool = False) -> ModelLoader:
    return ModelLoader(tmp_path / "cache" / "hub", offline, "cpu")


def test_a_search_without_torch_fetches_the_encoder_once(
    hub: Any, tmp_path: Path, ref: EncoderRef
) -> None:
    first = equipment(tmp_path).encoder_like(ref, "the index", searched(tmp_path))
    assert isinstance(first, OnnxEncoder)
    assert first.ref == ref
    kept = onnx.kept_export(ref.name, ref.pretrained, ref.id, tmp_path / "cache" / "hub")
    assert len(list(kept.iterdir())) == 5
    assert not any(path.is_symlink() for path in kept.iterdir())
    assert [path.name for path in kept.parent.iterdir()] == [ref.id]
    hub.clear_requests()
    again = equipment(tmp_path, offline=True).encoder_like(ref, "the index", searched(tmp_path))
    assert again.encode_texts(["a"]).tobytes() == first.encode_texts(["a"]).tobytes()
    assert hub.requests == []


def test_offline_nothing_is_fetched(hub: Any, tmp_path: Path, ref: EncoderRef) -> None:
    hub.clear_requests()
    with pytest.raises(MissingExtraError, match="which has no export here"):
        equipment(tmp_path, offline=True).encoder_like(ref, "the index", searched(tmp_path))
    assert hub.requests == []


def test_another_encoder_of_that_name(hub: Any, tmp_path: Path, ref: EncoderRef) -> None:
    other = ref.model_copy(update={"weights_sha256": "1" * 64})
    with pytest.raises(MissingExtraError):
        equipment(tmp_path).encoder_like(other, "the index", searched(tmp_path))
    equipment(tmp_path).encoder_like(ref, "the index", searched(tmp_path))
    with pytest.raises(IncomparableSpecsError, match=r"weights .* not 111111111111"):
        equipment(tmp_path).encoder_like(other, "the index", searched(tmp_path))


def test_a_name_that_the_registry_lacks(hub: Any, tmp_path: Path, ref: EncoderRef) -> None:
    other = ref.model_copy(update={"name": "unheard-of"})
    with pytest.raises(MissingExtraError, match="unheard-of/random"):
        equipment(tmp_path).encoder_like(other, "the index", searched(tmp_path))
    assert not (tmp_path / "cache" / "encoders" / "unheard-of" / "random" / other.id).exists()


def test_no_registry_at_all(hf_hub: Any, tmp_path: Path, ref: EncoderRef, monkeypatch: Any) -> None:
    monkeypatch.setattr(onnx, "has_torch", lambda: False)
    with pytest.raises(MissingExtraError):
        equipment(tmp_path).encoder_like(ref, "the index", searched(tmp_path))


def test_a_file_that_its_description_does_not_name(
    hub: Any, tmp_path: Path, ref: EncoderRef, exported: Path
) -> None:
    place = encoder_path(ref)
    data = (exported / "text.onnx").read_bytes()
    hub.commit(REPO, {f"{place}/text.onnx": data[:-4] + b"oops"}, repo_type="dataset")
    with pytest.raises(DigestMismatchError, match=r"text\.onnx is not the file"):
        equipment(tmp_path).encoder_like(ref, "the index", searched(tmp_path))
    hub.commit(REPO, {f"{place}/text.onnx": data}, repo_type="dataset")
    # What was not right is not kept: the next search fetches it again.
    assert equipment(tmp_path).encoder_like(ref, "the index", searched(tmp_path)).ref == ref


def test_what_is_larger_than_its_limit_is_not_fetched(
    hub: Any, tmp_path: Path, ref: EncoderRef
) -> None:
    limits = {"encoder.json": 65536, "image.onnx": 1000}
    with pytest.raises(Exception, match="more than"):
        fetch_encoder_files(
            Registry(cache_dir=tmp_path / "cache").dataset,
            ref.name,
            ref.pretrained,
            tmp_path / "target",
            limits=limits,
            accepts=lambda folder: True,
        )
    assert not (tmp_path / "target").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".gmi-")]


def test_a_local_hub_has_no_registry(tmp_path: Path, ref: EncoderRef, exported: Path) -> None:
    from gmi_registry.hubs.local import LocalHub

    hub = LocalHub.create(tmp_path / "hub", tmp_path / "cache")
    folder = tmp_path / "hub" / "encoders" / ref.name / ref.pretrained
    shutil.copytree(exported, folder / "onnx")
    found = equipment(tmp_path).encoder_like(ref, "the index", hub)
    assert isinstance(found, OnnxEncoder)


def test_an_export_that_is_damaged_gives_way_to_torch(
    tmp_path: Path, ref: EncoderRef, exported: Path, folder: Path
) -> None:
    from gmi_registry.hubs.local import LocalHub

    hub = LocalHub.create(tmp_path / "hub", tmp_path / "cache")
    place = tmp_path / "hub" / "encoders" / ref.name / ref.pretrained
    shutil.copytree(folder, place)
    shutil.copytree(exported, place / "onnx")
    description = json.loads((place / "onnx" / "encoder.json").read_bytes())
    description["logit_scale"] = -1
    (place / "onnx" / "encoder.json").write_text(json.dumps(description), encoding="utf-8")
    found = equipment(tmp_path).encoder_like(ref, "the index", hub)
    assert isinstance(found, OpenClipEncoder)


def test_an_interrogator_that_builds_on_torch_gets_it(
    tmp_path: Path, ref: EncoderRef, exported: Path, folder: Path, monkeypatch: Any
) -> None:
    from PIL import Image

    from gmi_registry import interrogators
    from gmi_registry.hubs.local import LocalHub

    class Asking:
        mode = "clip_interrogator"
        given: list[object]

        def __call__(self, image: Image.Image, encoder: object) -> str | None:
            self.given = [*getattr(self, "given", []), encoder]
            return "a cat"

    def asks_by(mode: str) -> SearchRequest:
        return SearchRequest(images=["a.png"], interrogator=mode)

    asking = Asking()
    monkeypatch.setattr(interrogators, "load_interrogator", lambda *_, **__: asking)
    hub = LocalHub.create(tmp_path / "hub", tmp_path / "cache")
    place = tmp_path / "hub" / "encoders" / ref.name / ref.pretrained
    shutil.copytree(folder, place)
    shutil.copytree(exported, place / "onnx")
    parts = equipment(tmp_path)
    encoder = parts.encoder_like(ref, "the index", hub)
    assert isinstance(encoder, OnnxEncoder)
    guess = parts.interrogator(asks_by("clip_interrogator"), ())
    assert guess is not None
    for _ in range(2):
        assert guess(Image.new("RGB", (8, 8)), encoder) == "a cat"
    assert [type(given) for given in asking.given] == [OpenClipEncoder] * 2
    assert asking.given[0] is asking.given[1]
    assert guess.mode == "clip_interrogator"
    phrases = parts.interrogator(asks_by("phrases"), ())
    assert phrases is asking  # given as it is
