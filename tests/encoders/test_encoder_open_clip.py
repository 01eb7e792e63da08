"""The real open_clip on a tiny model: layout, digest, numbers, and everything that may go wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import errors as hub_errors
from PIL import Image
from safetensors.torch import save_file

from gmi_registry.encoders import load_encoder
from gmi_registry.encoders import open_clip as weights_module
from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.errors import AuthError, GmiError, HubError, InputError, OfflineError
from gmi_registry.generation.specification import TowersWithPixels
from tests.support.tiny_clip import MODEL, PREPROCESS, tiny_state, write_tiny_clip

REVISION = "0" * 40


@pytest.fixture(scope="session")
def encoder(folder: Path) -> OpenClipEncoder:
    return OpenClipEncoder.from_folder(folder, "tiny", "random", batch_size=4)


def pictures(count: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [
        Image.fromarray(draw.integers(0, 256, (20 + i, 40, 3), dtype=np.uint8))
        for i in range(count)
    ]


def test_the_reference_pins_bytes_and_preprocessing(folder: Path, encoder: OpenClipEncoder) -> None:
    data = (folder / "open_clip_model.safetensors").read_bytes()
    ref = encoder.ref
    assert ref.weights_sha256 == hashlib.sha256(data).hexdigest()
    assert (ref.image_dim, ref.text_dim, ref.normalized) == (24, 24, False)
    assert ref.preprocess.size == 32
    assert list(ref.preprocess.mean) == PREPROCESS["mean"]
    assert list(ref.preprocess.std) == PREPROCESS["std"]
    assert ref.preprocess.interpolation == "bilinear"
    assert ref.preprocess.resize_mode == "squash"


def test_other_weights_are_another_encoder(tmp_path: Path, encoder: OpenClipEncoder) -> None:
    other = OpenClipEncoder.from_folder(write_tiny_clip(tmp_path, seed=1), "tiny", "random")
    assert other.ref.id != encoder.ref.id


def test_embeddings_are_those_of_open_clip_and_raw(folder: Path, encoder: OpenClipEncoder) -> None:
    location = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(location)
    model.eval()
    (image,) = pictures(1)
    with torch.no_grad():
        expected_image = model.encode_image(transform(image)[None]).numpy()
        tokens = open_clip.get_tokenizer(location)(["a hot pepper"])
        expected_text = model.encode_text(tokens).numpy()
    image_embeddings = encoder.encode_images([image])
    assert image_embeddings.dtype == np.float32
    np.testing.assert_allclose(image_embeddings, expected_image, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        encoder.encode_texts(["a hot pepper"]), expected_text, rtol=1e-5, atol=1e-6
    )
    assert abs(float(np.linalg.norm(image_embeddings)) - 1) > 0.01


def test_pixels_made_apart_give_the_same_bytes(encoder: OpenClipEncoder) -> None:
    assert isinstance(encoder, TowersWithPixels)
    images = pictures(9)
    pixels = np.concatenate([encoder.pixels(images[:4]), encoder.pixels(images[4:])])
    assert (pixels.dtype, pixels.shape[:2]) == (np.float32, (9, 3))
    assert encoder.encode_pixels(pixels).tobytes() == encoder.encode_images(images).tobytes()


def test_shapes_batches_and_repeats(encoder: OpenClipEncoder) -> None:
    images, texts = pictures(9), [f"picture {i}" for i in range(9)]
    for rows, again, one_by_one in (
        (
            encoder.encode_images(images),
            encoder.encode_images(images),
            np.concatenate([encoder.encode_images([image]) for image in images]),
        ),
        (
            encoder.encode_texts(texts),
            encoder.encode_texts(texts),
            np.concatenate([encoder.encode_texts([text]) for text in texts]),
        ),
    ):
        assert rows.shape == (9, 24)
        assert rows.tobytes() == again.tobytes()
        np.testing.assert_allclose(rows, one_by_one, rtol=1e-4, atol=1e-5)
    assert encoder.encode_images([]).shape == (0, 24)
    assert encoder.encode_texts([]).shape == (0, 24)


def test_a_long_text_is_cut_and_other_modes_are_converted(encoder: OpenClipEncoder) -> None:
    long = encoder.encode_texts(["word " * 14, "word " * 2000])
    np.testing.assert_allclose(long[0], long[1], rtol=1e-5, atol=1e-6)
    (image,) = pictures(1)
    grey = encoder.encode_images([image.convert("L"), image.convert("L").convert("RGB")])
    np.testing.assert_allclose(grey[0], grey[1], rtol=1e-5, atol=1e-6)


def test_computes_in_float32_without_gradients(encoder: OpenClipEncoder) -> None:
    parameters = list(encoder.model.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not encoder.model.training


def test_leaves_torchs_settings_as_they_were(encoder: OpenClipEncoder) -> None:
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled)
    encoder.encode_images(pictures(1))
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled) == before
    assert torch.is_grad_enabled()


def test_a_batch_must_hold_something(folder: Path) -> None:
    with pytest.raises(InputError, match="a batch of 0"):
        load_encoder("tiny", "random", folder, batch_size=0)


# --- folders that cannot be used


def broken(tmp_path: Path, folder: Path, **config: Any) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    if config:
        sections = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS, **config}
        (copy / "open_clip_config.json").write_text(json.dumps(sections), encoding="utf-8")
    return copy


def refuse(folder: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        OpenClipEncoder.from_folder(folder, "tiny", "random")
    assert "\n" not in caught.value.message
    assert str(folder) in caught.value.message or "tiny/random" in caught.value.message
    assert caught.value.hint


def test_a_missing_file(tmp_path: Path, folder: Path) -> None:
    refuse(tmp_path / "nowhere", "no such file")
    copy = broken(tmp_path, folder)
    (copy / "open_clip_config.json").unlink()
    refuse(copy, "No such file")


def test_a_pickle_is_never_loaded(tmp_path: Path, folder: Path) -> None:
    copy = broken(tmp_path, folder)
    (copy / "open_clip_model.safetensors").rename(copy / "open_clip_pytorch_model.bin")
    refuse(copy, "is a pickle")


def test_a_pickle_beside_the_weights_is_left_alone(tmp_path: Path, folder: Path) -> None:
    copy = broken(tmp_path, folder)
    for name in ("open_clip_pytorch_model.bin", "model.pth", "aaa.safetensors"):
        (copy / name).write_bytes(b"not weights at all")
    assert OpenClipEncoder.from_folder(copy, "tiny", "random").ref.image_dim == 24


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"model_cfg": {}}',
        '{"model_cfg": {"embed_dim": "x", "vision_cfg": {}, "text_cfg": {}}}',
        '{"model_cfg": {"embed_dim": 8, "vision_cfg": [], "text_cfg": {}}}',
        "[" * 100_000,
        " " * 1_000_001,
    ],
)
def test_a_malformed_configuration(tmp_path: Path, folder: Path, text: str) -> None:
    copy = broken(tmp_path, folder)
    (copy / "open_clip_config.json").write_text(text, encoding="utf-8")
    refuse(copy, "not an open_clip configuration")


def test_weights_that_do_not_fit_or_are_cut_short(tmp_path: Path, folder: Path) -> None:
    refuse(broken(tmp_path, folder, model_cfg={**MODEL, "embed_dim": 32}), "cannot load")
    weights = tmp_path / "copy" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refuse(tmp_path / "copy", "cannot load")


@pytest.mark.parametrize(
    ("section", "change", "match"),
    [
        ("text_cfg", {"hf_model_name": "someone/else"}, "names another model"),
        ("vision_cfg", {"timm_model_name": "hf-hub:someone/else"}, "names another model"),
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}, "trust_remote_code"),
        ("text_cfg", {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}, "bpe_path"),
        ("text_cfg", {"tokenizer_kwargs": "x"}, "not allowed"),
        ("text_cfg", {"hf_tokenizer_name": "someone/else"}, "cannot load"),
    ],
)
def test_a_configuration_that_reaches_outside(
    tmp_path: Path, folder: Path, section: str, change: dict[str, Any], match: str
) -> None:
    model = {**MODEL, section: {**MODEL[section], **change}}
    refuse(broken(tmp_path, folder, model_cfg=model), match)


def test_tokenizer_code_in_the_folder_does_not_run(tmp_path: Path, folder: Path) -> None:
    model = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "hf_tokenizer_name": "x"}}
    copy = broken(tmp_path, folder, model_cfg=model)
    settings = {"auto_map": {"AutoTokenizer": ["hostile.Tokenizer", None]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (copy / "config.json").write_text(json.dumps({"model_type": "x"}), encoding="utf-8")
    (copy / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    refuse(copy, "cannot load")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"interpolation": "random"},
        {"std": [0.0, 1.0, 1.0]},
        {"mean": [0.5, 0.5]},
        {"size": [32, 40]},
    ],
)
def test_preprocessing_that_no_manifest_can_name(
    tmp_path: Path, folder: Path, change: dict[str, Any]
) -> None:
    copy = broken(tmp_path, folder, preprocess_cfg={**PREPROCESS, **change})
    if "size" in change:
        size = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "image_size": change["size"]}}
        write_tiny_clip_of(copy, size)
    refuse(copy, "no specification can name")


def write_tiny_clip_of(folder: Path, model: dict[str, Any]) -> None:
    save_file(tiny_state(**model), folder / "open_clip_model.safetensors")
    config = {"model_cfg": model, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")


# --- weights by tag, from a cache laid out as huggingface_hub lays it out


@pytest.fixture
def tagged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """An architecture and a tag that open_clip knows for the length of one test."""
    entry = {
        "hf_hub": "owner/tiny-clip/",
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "quick_gelu": True,
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", MODEL)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny", {"cached": entry})
    return entry


def fill_cache(cache: Path, filename: str = "open_clip_model.safetensors") -> Path:
    repository = cache / "models--owner--tiny-clip"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION, encoding="utf-8")
    save_file(tiny_state(), snapshot / filename)
    return snapshot / filename


def test_a_cached_tag_loads_without_a_network(
    tmp_path: Path, tagged: dict[str, Any], folder: Path
) -> None:
    path = fill_cache(tmp_path)
    encoder = OpenClipEncoder.from_pretrained("Tiny", "cached", tmp_path)
    assert encoder.ref.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert encoder.ref.preprocess.mean == tagged["mean"]
    assert encoder.ref.preprocess.std == tagged["std"]
    assert encoder.ref.preprocess.resize_mode == "shortest"
    again = load_encoder("Tiny", "cached", cache_dir=tmp_path, offline=True)
    images = pictures(2)
    assert again.encode_images(images).tobytes() == encoder.encode_images(images).tobytes()


def test_the_tags_activation_is_used(tmp_path: Path, tagged: dict[str, Any]) -> None:
    fill_cache(tmp_path)
    quick = OpenClipEncoder.from_pretrained("Tiny", "cached", tmp_path)
    tagged["quick_gelu"] = False
    plain = OpenClipEncoder.from_pretrained("Tiny", "cached", tmp_path)
    names = {type(module).__name__ for module in quick.model.modules()}
    assert "QuickGELU" in names
    assert "QuickGELU" not in {type(module).__name__ for module in plain.model.modules()}


def test_the_default_encoders_weights_want_quick_gelu() -> None:
    """The reason for the rule: open_clip's own configuration of ViT-L-14 does not say so."""
    assert open_clip.get_pretrained_cfg("ViT-L-14", "openai")["quick_gelu"]
    assert not open_clip.get_model_config("ViT-L-14").get("quick_gelu", False)


def test_an_empty_cache_offline(tmp_path: Path, tagged: dict[str, Any]) -> None:
    with pytest.raises(OfflineError, match="network is switched off") as caught:
        load_encoder("Tiny", "cached", cache_dir=tmp_path, offline=True)
    assert "hf download owner/tiny-clip open_clip_model.safetensors" in str(caught.value.hint)
    with pytest.raises(OfflineError, match="vit_large_patch14_clip_224"):
        load_encoder("ViT-L-14", "openai", cache_dir=tmp_path, offline=True)


def test_a_hub_that_cannot_be_reached(
    tmp_path: Path, tagged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = weights_module.hf_hub_download

    def unreachable(*args: Any, **options: Any) -> str:
        return str(real(*args, endpoint="http://127.0.0.1:9", **options))

    monkeypatch.setattr(weights_module, "hf_hub_download", unreachable)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its tries
    with pytest.raises(OfflineError, match="cannot be reached"):
        load_encoder("Tiny", "cached", cache_dir=tmp_path)


def _answer(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "said no\nin two lines")
    return error


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (hub_errors.EntryNotFoundError, HubError),
        (hub_errors.GatedRepoError, AuthError),
        (hub_errors.HfHubHTTPError, HubError),
        (OSError, HubError),
        (hub_errors.OfflineModeIsEnabled, OfflineError),
    ],
)
def test_what_the_hub_may_answer(
    tmp_path: Path,
    tagged: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    answer: type[Exception],
    expected: type[GmiError],
) -> None:
    real = weights_module.hf_hub_download

    def refuse_download(*args: Any, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            return str(real(*args, local_files_only=True, **options))
        raise _answer(answer)

    monkeypatch.setattr(weights_module, "hf_hub_download", refuse_download)
    with pytest.raises(expected) as caught:
        load_encoder("Tiny", "cached", cache_dir=tmp_path)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_names_and_tags_that_open_clip_does_not_know(tagged: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="knows no encoder Nothing/x"):
        load_encoder("Nothing", "x", offline=True)
    with pytest.raises(InputError, match="knows no weights 'x' for Tiny") as caught:
        load_encoder("Tiny", "x", offline=True)
    assert caught.value.hint == "one of cached"


@pytest.mark.parametrize("repository", ["", "owner/tiny-clip/weights.bin", "owner/tiny/x.npz"])
def test_a_tag_without_safetensors(tagged: dict[str, Any], repository: str) -> None:
    tagged["hf_hub"] = repository
    with pytest.raises(InputError, match="as a pickle only"):
        load_encoder("Tiny", "cached", offline=True)


def test_a_cached_file_that_is_damaged(tmp_path: Path, tagged: dict[str, Any]) -> None:
    fill_cache(tmp_path).write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot load"):
        load_encoder("Tiny", "cached", cache_dir=tmp_path, offline=True)


def test_a_tokenizer_that_is_not_at_hand(
    tmp_path: Path, tagged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {**MODEL["text_cfg"], "hf_tokenizer_name": "owner/tokenizer"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", {**MODEL, "text_cfg": text})
    fill_cache(tmp_path)
    with pytest.raises(OfflineError, match="could not be fetched"):
        load_encoder("Tiny", "cached", cache_dir=tmp_path, offline=True)
