"""Encoders without torch against open_clip itself: pixels, tokens, embeddings, and searches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from gmi_registry import search
from gmi_registry.encoders import Encoder, load_encoder, onnx
from gmi_registry.encoders.description import Description
from gmi_registry.encoders.encoder import Matched
from gmi_registry.encoders.export import export_encoder
from gmi_registry.encoders.onnx import OnnxEncoder, Preprocessing
from gmi_registry.encoders.onnx_files import TOLERANCE, deviation
from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.encoders.tokenizer import ClipTokens, Pair, join_merges, split_merges
from gmi_registry.errors import InputError, MissingExtraError, install_command
from gmi_registry.generation.specification import TowersWithPixels
from gmi_registry.hubs.local import LocalHub
from gmi_registry.search.query import build_query
from gmi_registry.spec import Preprocess
from tests.support.tiny_clip import MODEL

MODES = ("RGB", "L", "RGBA", "P", "CMYK", "1", "LA")
ODD_TEXTS = (
    "",
    " \t\n ",
    "A Photo of THE cat's 2 hats!?",
    "don't we'll I'd they've I'm you're it's",
    "<start_of_text> a <END_of_TEXT> b <end_of_text>",
    "caf\u00e9 na\u00efve \u00bd \u2615 \u65e5\u672c\u8a9e \U0001f408\u200d\u2b1b",
    "schÃ¶n &amp;amp; &lt;b&gt; \u201cquoted\u201d \ufb01ne",
    "'\u017f \u212a \u0130stanbul \u1e9e",
    "1234567890 \u00b2\u2153 \u2167",
    "zero\x00byte \x1b[31mred\x1b[0m a\rb",
    "word " * 300,
    "x" * 2000,
)


@pytest.fixture(scope="session")
def torch_encoder(folder: Path) -> OpenClipEncoder:
    return OpenClipEncoder.from_folder(folder, "tiny", "random")


@pytest.fixture(scope="session")
def merges() -> list[Pair]:
    return list(SimpleTokenizer().bpe_ranks)


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


# --- pixels


@settings(deadline=None, max_examples=150)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    mode=st.sampled_from(MODES),
    resize=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    size=st.integers(1, 70),
    fill=st.integers(0, 255),
)
def test_pixels_are_those_of_open_clip_to_the_last_bit(
    width: int, height: int, mode: str, resize: Any, interpolation: Any, size: int, fill: int
) -> None:
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    theirs = image_transform_v2(
        PreprocessCfg(
            size=size,
            mean=mean,
            std=std,
            resize_mode=resize,
            interpolation=interpolation,
            fill_color=fill,
        ),
        is_train=False,
    )
    ours = Preprocessing(
        Preprocess(size=size, mean=mean, std=std, interpolation=interpolation, resize_mode=resize),
        fill,
    )
    image = picture(width, height, mode)
    try:
        expected = theirs(image.convert("RGB")).numpy()
    except ValueError:  # of a long strip open_clip keeps a side of no pixels
        assert resize == "longest"
        assert ours([image]).shape == (1, 3, size, size)
        return
    np.testing.assert_array_equal(ours([image])[0], expected)


def test_an_interpolation_that_open_clip_has_not() -> None:
    odd = Preprocess(
        size=8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="lanczos", resize_mode="squash"
    )
    with pytest.raises(InputError, match="cannot be resized by lanczos"):
        Preprocessing(odd)


# --- tokens


@pytest.mark.parametrize("cleaning", ["lower", "whitespace", "canonicalize"])
@pytest.mark.parametrize("length", [2, 16, 77])
def test_odd_texts_become_the_tokens_of_open_clip(
    merges: list[Pair], cleaning: Any, length: int
) -> None:
    theirs = SimpleTokenizer(context_length=length, clean=cleaning)
    ours = ClipTokens(merges, length, cleaning)
    tokens = ours(ODD_TEXTS)
    assert tokens.dtype == np.int64
    np.testing.assert_array_equal(tokens, theirs(list(ODD_TEXTS)).numpy())


@pytest.fixture(scope="session")
def tokenizers(merges: list[Pair]) -> tuple[Any, ClipTokens]:
    return SimpleTokenizer(), ClipTokens(merges, 77)


@settings(deadline=None, max_examples=300)
@given(text=st.one_of(st.text(max_size=80), st.text(st.characters(max_codepoint=127), max_size=80)))
def test_any_text_becomes_the_tokens_of_open_clip(
    tokenizers: tuple[Any, ClipTokens], text: str
) -> None:
    theirs, ours = tokenizers
    np.testing.assert_array_equal(ours([text]), theirs([text]).numpy())


def test_a_length_without_room(merges: list[Pair]) -> None:
    with pytest.raises(InputError, match="1 tokens hold no text"):
        ClipTokens(merges, 1)


def test_the_vocabulary_as_a_file(merges: list[Pair]) -> None:
    data = join_merges(merges)
    assert split_merges(data) == merges
    assert len(data) < 600_000
    for broken in (
        b"a\n",
        b"a b c\n",
        b" b\n",
        b"a b\n\nc d\n",
        b"\xff \xfe\n",
        b"a b\n" * 100_001,
    ):
        with pytest.raises(InputError, match="not a byte-pair vocabulary"):
            split_merges(broken)


# --- embeddings


def test_embeddings_are_those_of_torch(exported: Path, torch_encoder: OpenClipEncoder) -> None:
    light_one = OnnxEncoder.from_folder(exported, batch_size=5)
    images = [
        picture(13 + 7 * place, 101 - 5 * place, MODES[place % len(MODES)], place)
        for place in range(14)
    ]
    for ours, theirs in (
        (light_one.encode_images(images), torch_encoder.encode_images(images)),
        (light_one.encode_texts(ODD_TEXTS), torch_encoder.encode_texts(ODD_TEXTS)),
    ):
        assert ours.dtype == np.float32
        assert deviation(ours, theirs) < TOLERANCE / 10
    assert light_one.encode_images([]).shape == (0, 24)
    assert light_one.encode_texts([]).shape == (0, 24)


def test_pixels_made_apart_give_the_same_bytes(exported: Path) -> None:
    light_one = OnnxEncoder.from_folder(exported, batch_size=5)
    assert isinstance(light_one, TowersWithPixels)
    images = [picture(13 + 7 * place, 50, "RGB", place) for place in range(9)]
    pixels = np.concatenate([light_one.pixels(images[:4]), light_one.pixels(images[4:])])
    assert light_one.encode_pixels(pixels).tobytes() == light_one.encode_images(images).tobytes()


def test_it_is_the_same_encoder(exported: Path, torch_encoder: OpenClipEncoder) -> None:
    light_one = OnnxEncoder.from_folder(exported)
    towers: Encoder = light_one
    assert towers.ref == torch_encoder.ref
    assert towers.ref.id == torch_encoder.ref.id
    assert isinstance(light_one, Matched)
    assert light_one.logit_scale == pytest.approx(torch_encoder.logit_scale)
    images = [picture(40, 30)]
    ours, theirs = (build_query(images, it, prompt="a cat") for it in (light_one, torch_encoder))
    assert ours.encoder_id == theirs.encoder_id
    np.testing.assert_allclose(ours.image_embeddings, theirs.image_embeddings, rtol=1e-3, atol=1e-4)


def test_a_batch_must_hold_something(exported: Path) -> None:
    with pytest.raises(InputError, match="a batch of 0"):
        OnnxEncoder.from_folder(exported, batch_size=0)


# --- exporting


def test_half_the_size_is_as_good(
    exported: Path, halved: Path, torch_encoder: OpenClipEncoder
) -> None:
    description = Description.model_validate_json((halved / "encoder.json").read_bytes())
    full = Description.model_validate_json((exported / "encoder.json").read_bytes())
    assert (description.weights, full.weights) == ("float16", "float32")
    assert description.files["text.onnx"].size < 0.6 * full.files["text.onnx"].size
    images = [picture(50, 31, seed=seed) for seed in range(4)]
    away = deviation(
        OnnxEncoder.from_folder(halved).encode_images(images),
        torch_encoder.encode_images(images),
    )
    assert away < TOLERANCE / 10


def test_no_path_of_this_machine_is_in_the_files(exported: Path) -> None:
    for name in ("image.onnx", "text.onnx"):
        data = (exported / name).read_bytes()
        assert b"site-packages" not in data
        assert os.fsencode(Path.home()) + b"/" not in data
        assert os.fsencode(exported.parents[1]) not in data


def test_a_folder_that_holds_something_else_is_kept(
    tmp_path: Path, torch_encoder: OpenClipEncoder
) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.txt, which is not an exported encoder"):
        export_encoder(torch_encoder, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        export_encoder(torch_encoder, tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_texts_that_are_split_in_another_way(folder: Path, tmp_path: Path) -> None:
    encoder = OpenClipEncoder.from_folder(folder, "tiny", "random")
    encoder.tokenizer = SimpleTokenizer(context_length=16, reduction_mask="random")
    with pytest.raises(InputError, match="an export needs CLIP's byte pairs"):
        export_encoder(encoder, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


# --- where there is no torch

NO_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "open_clip", "transformers", "timm"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Absent())
"""


def without_torch(tmp_path: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process in which torch and open_clip cannot be imported."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(NO_TORCH, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "PYTHONPATH": str(site), "GMI_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_neither_torch_nor_open_clip_is_imported(exported: Path, tmp_path: Path) -> None:
    code = """
        import sys
        from PIL import Image
        from gmi_registry.encoders.onnx import OnnxEncoder
        encoder = OnnxEncoder.from_folder(sys.argv[1])
        assert encoder.encode_images([Image.new("RGB", (9, 9))]).shape == (1, 24)
        assert encoder.encode_texts(["caf\\u00e9"]).shape == (1, 24)
        heavy = {"torch", "open_clip", "torchvision", "transformers", "onnx"} & set(sys.modules)
        sys.exit(" ".join(sorted(heavy)) or 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(exported)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


SEARCH = """
    import sys
    from gmi_registry.cli.main import search_main
    sys.argv = ["gmi-search", *sys.argv[1:]]
    search_main()
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's specifications and its encoder, as a hub in a folder."""
    root = Path(__file__).parents[2]
    hub = tmp_path_factory.mktemp("light") / "hub"
    shutil.copytree(root / "zoo" / "hub" / "encoders", hub / "encoders")
    shutil.copy(root / "zoo" / "hub" / "hub.json", hub)
    for spec in sorted((root / "docs" / "press" / "specs").iterdir()):
        model = hub / "models" / spec.name
        model.mkdir(parents=True)
        shutil.copytree(spec / "gmi", model / "gmi")
        shutil.copy(root / "zoo" / "hub" / "models" / spec.name / "README.md", model)
    return hub


def test_a_search_without_torch_finds_what_one_with_torch_finds(hub: Path, tmp_path: Path) -> None:
    query = Path(__file__).parents[2] / "zoo" / "queries" / "openmoji-rooster.png"
    arguments = [
        str(query),
        "--hub",
        str(hub),
        "--json",
        "--interrogator",
        "phrases",
        "--top",
        "16",
    ]
    done = without_torch(tmp_path, SEARCH, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    heavy = load_encoder("gmi-zoo-clip", "icons-v1", hub / "encoders" / "gmi-zoo-clip" / "icons-v1")
    assert isinstance(heavy, OpenClipEncoder)
    expected = search(
        [query], LocalHub(hub, tmp_path), encoder=heavy, interrogator="phrases", top=16
    ).to_json()
    assert len(found["results"]) == 16
    assert [hit["model"] for hit in found["results"]] == [
        hit["model"] for hit in expected["results"]
    ]
    np.testing.assert_allclose(
        [hit["distance"] for hit in found["results"]],
        [hit["distance"] for hit in expected["results"]],
        rtol=1e-3,
    )


def test_without_torch_and_export_the_error_names_both_ways_out(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "has_torch", lambda: False)
    with pytest.raises(MissingExtraError, match="tiny/random, which has no export") as caught:
        load_encoder("tiny", "random", folder, cache_dir=tmp_path / "hub")
    hint = str(caught.value.hint)
    assert hint.startswith(f"{install_command('torch')}; or ")
    assert "gmi encoder export tiny/random --output DIR" in hint


def test_without_torch_an_export_in_the_cache_is_found(
    tmp_path: Path, exported: Path, torch_encoder: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "hub"
    kept = onnx.kept_export("tiny", "random", torch_encoder.ref.id, weights)
    shutil.copytree(exported, kept)
    monkeypatch.setattr(onnx, "has_torch", lambda: False)
    encoder = load_encoder("tiny", "random", cache_dir=weights)
    assert isinstance(encoder, OnnxEncoder)
    assert encoder.ref == torch_encoder.ref
    other = onnx.kept_export("other", "random", torch_encoder.ref.id, weights)
    shutil.copytree(exported, other)
    with pytest.raises(MissingExtraError):  # what it says it is decides, not where it lies
        load_encoder("other", "random", cache_dir=weights)


def test_another_architecture_is_exported(tmp_path: Path) -> None:
    """A residual network, and the preprocessing that pads."""
    model = {**MODEL, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
    source = tmp_path / "source"
    source.mkdir()
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**model).state_dict(), source / "open_clip_model.safetensors")
    preprocess = {"resize_mode": "longest", "interpolation": "bicubic", "fill_color": 200}
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    (source / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    heavy = OpenClipEncoder.from_folder(source, "resnet", "random")
    export_encoder(heavy, tmp_path / "onnx")
    images = [picture(50, 31), picture(9, 90, "L")]
    light_one = OnnxEncoder.from_folder(tmp_path / "onnx")
    assert deviation(light_one.encode_images(images), heavy.encode_images(images)) < TOLERANCE / 10
    assert light_one.ref == heavy.ref
