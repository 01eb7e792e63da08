"""Models that are near everything, and those that are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gmi_registry import background
from gmi_registry.audit import proposal_findings
from gmi_registry.index import Filters, Hubness, SpecCache, measure_hubness
from gmi_registry.index.hubness import CANDIDATE
from gmi_registry.scoring.repeats import SampleModel, lower_share, nearest_members
from gmi_registry.spec import PromptSet
from tests.support.index_specs import DIMENSIONS, encoder_named, index_of, spec_of_images
from zoo.background import sheet

PROMPTS = PromptSet("many", 1, tuple(f"thing {i}" for i in range(30)))


def spec_of(make_spec, name, images):
    return spec_of_images(make_spec, name, PROMPTS, images)


def style(seed):
    """Images of one of sixteen models that lie around a middle where there is none."""
    random = np.random.default_rng(seed)
    away = np.zeros(DIMENSIONS)
    away[seed % DIMENSIONS] = 3 if seed < DIMENSIONS else -3
    content = np.random.default_rng(1).standard_normal((len(PROMPTS), DIMENSIONS))
    return 5 + away + 0.7 * content + 0.4 * random.standard_normal((len(PROMPTS), DIMENSIONS))


@pytest.fixture
def honest(make_spec):
    return [spec_of(make_spec, f"m{i:02}", style(i)) for i in range(16)]


def mean_of(specs):
    return np.mean([spec.image_embeddings.astype(np.float64) for spec in specs], axis=0)


def group_of(*specs):
    (selection,) = index_of(*specs).select(Filters())
    return selection.group


def test_among_many_members_all_but_the_drawn_one_compete():
    random = np.random.default_rng(8)
    means = random.standard_normal((4096 + 40, 3))
    drawn = [SampleModel(row, means[[row, row - 1]], means[row]) for row in (7, 4100)]
    pictures = means[[4099, 4100]]
    by_models, by_pictures = nearest_members(len(means), lambda it: means[it], drawn, pictures, 0)
    for images, own, found in (
        (drawn[0].images, [7], by_models[:2]),
        (drawn[1].images, [4100], by_models[2:]),
        (pictures, [], by_pictures),
    ):
        apart = np.square(images[:, None] - means).sum(axis=2)
        apart[:, own] = np.inf
        np.testing.assert_array_equal(found, np.argsort(apart, axis=1)[:, :10])


def test_the_mean_of_all_models_is_near_everything(honest, make_spec):
    plain = measure_hubness(group_of(*honest))
    assert plain.universal == {}
    assert (plain.models, plain.asked, plain.pictures) == (16, 480, 0)
    cheat = spec_of(make_spec, "cheat", mean_of(honest))
    found = measure_hubness(group_of(*honest, cheat))
    (name,) = found.universal
    assert name.startswith("local:cheat@")
    assert found.universal[name].first > 4 * found.share
    # It is measured alike from outside.
    beside = measure_hubness(group_of(*honest), candidate=cheat.image_embeddings)
    assert beside.is_universal(beside.of(CANDIDATE))
    honest_one = measure_hubness(group_of(*honest[1:]), candidate=honest[0].image_embeddings)
    assert not honest_one.is_universal(honest_one.of(CANDIDATE))


def test_copies_neither_hide_a_cheat_nor_accuse_its_neighbour(honest, make_spec):
    random = np.random.default_rng(3)

    def copies(images, name):
        near = (images + random.standard_normal(images.shape) * 0.01 for _ in range(15))
        return [spec_of(make_spec, f"{name}{i:02}", each) for i, each in enumerate(near)]

    cheats = copies(mean_of(honest), "cheat")
    found = measure_hubness(group_of(*honest, *cheats))
    assert {name.partition("@")[0] for name in found.universal} == {
        f"local:cheat{i:02}" for i in range(15)
    }
    assert found.models == 17
    crowd = copies(honest[4].image_embeddings.astype(np.float64), "copy")
    assert measure_hubness(group_of(*honest, *crowd)).universal == {}


def test_pictures_alone_may_give_a_cheat_away(honest, make_spec):
    asked = np.random.default_rng(4).standard_normal((64, DIMENSIONS)).astype(np.float32) - 9
    pictured = np.resize(asked, (len(PROMPTS), DIMENSIONS))
    cheat = spec_of(make_spec, "cheat", pictured)
    assert measure_hubness(group_of(*honest, cheat)).universal == {}
    (name,) = measure_hubness(group_of(*honest, cheat), asked).universal
    assert name.startswith("local:cheat@")


def test_it_is_the_same_each_time_whatever_the_order(honest, tmp_path):
    first, second = (measure_hubness(group_of(*specs)) for specs in (honest, honest[::-1]))
    assert first == second
    assert Hubness.from_bytes(first.to_bytes()) == first


def test_few_models_prove_nothing(honest, make_spec):
    few = honest[:5]
    found = measure_hubness(group_of(*few, spec_of(make_spec, "cheat", mean_of(few))))
    assert found.universal == {}


def test_chance_does_not_accuse():
    assert lower_share(0, 0) == 0
    assert lower_share(3, 10) < 0.1
    assert 0.25 < lower_share(300, 1000) < 0.26
    random = np.random.default_rng(9)
    shares = [lower_share(int(random.binomial(600, 0.05)), 600) for _ in range(1000)]
    assert np.mean(np.array(shares) > 0.05) < 0.01


class Encoder:
    """Reads nothing of a picture but its colours."""

    def __init__(self):
        self.ref, self.calls = encoder_named(), 0

    def encode_images(self, pictures):
        self.calls += 1
        colours = np.stack([np.asarray(it, np.float32).mean(axis=(0, 1)) for it in pictures])
        return np.pad(colours / 255, ((0, 0), (0, DIMENSIONS - 3)))


def test_what_was_measured_is_kept(honest, tmp_path):
    cache, encoder = SpecCache(tmp_path), Encoder()
    stack = group_of(*honest)
    assert background.known_hubness(stack, cache) is None
    without = background.hubness(stack, cache)
    assert without.pictures == 0
    # Once the encoder is at hand it takes part, and then again without it.
    found = background.hubness(stack, cache, encoder)
    assert found.pictures == 64
    assert background.hubness(stack, cache, encoder) == found
    assert background.hubness(stack, cache) == background.known_hubness(stack, cache) == found
    assert encoder.calls == 1
    assert background.known_hubness(group_of(*honest[1:]), cache) is None
    kept = [file for file in cache.files() if file.path.parent.name in ("background", "hubness")]
    assert len(kept) == 2
    for file in kept:
        file.path.write_bytes(b"damaged")
    assert background.hubness(stack, cache, encoder) == found
    assert encoder.calls == 2


def test_the_pictures_are_those_that_the_program_draws():
    assert len(background.pictures()) == 64
    data = io.BytesIO()
    whole = Image.new("RGB", (768, 768))
    for number, picture in enumerate(background.pictures()):
        whole.paste(picture, (number % 8 * 96, number // 8 * 96))
    ours, drawn = np.asarray(whole, np.int16), np.asarray(sheet(), np.int16)
    # Another machine may round a sine otherwise, by one level of the 64.
    assert np.abs(ours - drawn).max() <= 4
    assert np.mean(ours != drawn) < 1e-3
    whole.save(data, "PNG")
    spread = [np.asarray(picture, np.float32).std() for picture in background.pictures()]
    assert min(spread) > 5


def test_a_proposal_is_compared_with_what_there_is(honest, make_spec, tmp_path):
    cache, stack = SpecCache(tmp_path), group_of(*honest)

    def told(spec, known=stack):
        return {it.check: (it.status, it.detail) for it in proposal_findings(spec, known, cache)}

    new = told(
        spec_of(make_spec, "new", 5 + np.ones((len(PROMPTS), 1)) * np.eye(DIMENSIONS)[0] * 9)
    )
    assert new["copies"] == ("ok", "repeats none of the 16 models")
    assert new["hubness"][0] == "ok"
    copy = told(spec_of(make_spec, "copy", honest[2].image_embeddings * 1.01))
    assert copy["copies"][1].startswith("the same images as local:m02@")
    # A model does not repeat its own earlier description.
    assert told(honest[2])["copies"] == ("ok", "repeats none of the 16 models")
    status, detail = told(spec_of(make_spec, "cheat", mean_of(honest)))["hubness"]
    assert status == "failed"
    assert detail.startswith("near everything: first for ")
    for factor in (600, 1 / 50):
        odd = told(spec_of(make_spec, "odd", honest[2].image_embeddings.astype(float) * factor))
        assert odd["norms"][0] == "failed"
        assert "most models have" in odd["norms"][1]
    assert new["norms"][0] == copy["norms"][0] == "ok"
    assert {status for status, _ in told(honest[0], None).values()} == {"skipped"}
    assert told(honest[0], group_of(*honest[1:4]))["hubness"][0] == "skipped"
