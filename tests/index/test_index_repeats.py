"""Specifications that repeat each other, in rankings."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gmi_registry.index import Filters, SpecIndex, SpecSource, SpecStatus
from gmi_registry.scoring import WithinScatter
from gmi_registry.scoring.default import mean_images
from gmi_registry.scoring.repeats import REPEATED, repeat_groups, separations, whiten
from gmi_registry.spec import PromptSet
from tests.support.index_specs import DIMENSIONS, index_of, names, spec_of_images

PROMPTS = PromptSet("many", 1, tuple(f"thing {i}" for i in range(40)))


@pytest.fixture
def honest(make_spec):
    """Fifteen models that differ, each with a style and the content of its prompts."""
    content = np.random.default_rng(1).standard_normal((len(PROMPTS), DIMENSIONS)) * 2
    return [_spec(make_spec, f"m{i:02}", _images(i) + content) for i in range(15)]


def _images(seed):
    random = np.random.default_rng(seed)
    return random.standard_normal(DIMENSIONS) + 0.3 * random.standard_normal(
        (len(PROMPTS), DIMENSIONS)
    )


def _spec(make_spec, name, images):
    return spec_of_images(make_spec, name, PROMPTS, images)


def _copies(make_spec, spec, count=12, name="copy"):
    """Each off by a little, in another way."""
    images = spec.image_embeddings.astype(np.float64)
    made = []
    for number in range(count):
        random = np.random.default_rng(100 + number)
        changed = images * random.uniform(0.97, 1.03)
        changed = random.permutation(changed + random.standard_normal(images.shape) * 0.02)
        made.append(_spec(make_spec, f"{name}{number:02}", changed))
    return made


def test_copies_take_one_place_and_change_nothing_else(honest, make_spec, ask):
    query = ask(honest[3].image_embeddings.mean(axis=0), prompt=None)
    for score in ("default", "paper"):
        before = index_of(*honest).rank(query, score, top=10).hits
        copied = index_of(*honest, *_copies(make_spec, honest[3]))
        after = copied.rank(query, score, top=10).hits
        assert len(after) == 10
        first = after[0]
        assert {first.ref.id, *(it.ref.id for it in first.repeats)} == {
            "m03",
            *(f"copy{i:02}" for i in range(12)),
        }
        assert names(after)[1:] == names(before)[1:]
        distances = [hit.distance for hit in after]
        assert distances == sorted(distances)
        assert all(not hit.repeats for hit in after[1:])
        for hit, following in pairwise(after):
            assert hit.margin == pytest.approx(following.distance - hit.distance)


def test_chances_are_as_without_the_copies(honest, make_spec, ask):
    query = ask(honest[3].image_embeddings[5], prompt=None)
    alone = index_of(*honest)
    copied = index_of(*honest, *_copies(make_spec, honest[3]))
    # The same statistics on both sides: what they take from copies is another matter.
    ours, theirs = (index.select(Filters())[0].group for index in (copied, alone))
    for name in ("scatter", "temperature"):
        ours.__dict__[name] = getattr(theirs, name)
    before = {hit.ref.id: hit.confidence for hit in alone.rank(query, top=None).hits}
    after = copied.rank(query, top=15).hits
    (entry,) = (hit for hit in after if hit.repeats)
    assert entry.confidence == pytest.approx(before["m03"], rel=0.2)
    for hit in after:
        if hit is not entry:
            assert hit.confidence == pytest.approx(before[hit.ref.id], rel=0.2)
    assert sum(hit.confidence for hit in after) == pytest.approx(1)
    # Where there is room for all, each has the chance that it has without the others.
    everybody = copied.rank(query, top=None).hits
    assert len(everybody) == 27
    assert [hit.distance for hit in everybody] == sorted(hit.distance for hit in everybody)
    alike = [hit.confidence for hit in everybody if hit.repeats]
    assert len(alike) == 13
    assert alike == pytest.approx([before["m03"]] * 13, rel=0.2)


@pytest.mark.parametrize("top", [14, 15, 16, 20, 26, 27, 28, None])
def test_copies_are_shown_where_there_is_room_left(honest, make_spec, ask, top):
    copied = index_of(*honest, *_copies(make_spec, honest[3]))
    query = ask(honest[7].image_embeddings.mean(axis=0), prompt=None)
    hits = copied.rank(query, top=top).hits
    assert len(hits) == min(top or 27, 27)
    assert len({hit.ref for hit in hits if not hit.repeats}) >= min(top or 27, 15) - 1
    distances = [hit.distance for hit in hits]
    assert distances == sorted(distances)
    everybody = {hit.ref: hit for hit in copied.rank(query, top=None, repeats=True).hits}
    assert distances == [everybody[hit.ref].distance for hit in hits]
    for hit in hits:
        assert len(hit.repeats) in (0, 12)
        assert hit.ref not in {other.ref for other in hit.repeats}


def test_each_may_take_room_from_others(honest, make_spec, ask):
    copied = index_of(*honest, *_copies(make_spec, honest[3]))
    query = ask(honest[3].image_embeddings.mean(axis=0), prompt=None)
    hits = copied.rank(query, top=10, repeats=True).hits
    assert {hit.ref.id for hit in hits} <= {"m03", *(f"copy{i:02}" for i in range(12))}
    assert not any(hit.repeats for hit in hits)


def test_the_best_trusted_is_shown_and_of_these_the_nearest(honest, make_spec, ask):
    copies = _copies(make_spec, honest[3], 3)
    query = ask(honest[3].image_embeddings.mean(axis=0), prompt=None)

    def ranked(**trust):
        def source(spec):
            ref = spec.manifest.model.ref
            status = SpecStatus(trust=trust.get(ref.id, "self-published"))
            return SpecSource(ref, lambda: spec, status=status)

        index = SpecIndex.from_sources(map(source, [*honest, *copies]))
        hit = index.rank(query, top=1).hits[0]
        own = {it.ref.id: it.distance for it in (hit, *hit.repeats)}
        return hit, [hit.ref.id, *(it.ref.id for it in hit.repeats)], own

    hit, order, own = ranked()
    assert order == sorted(own, key=own.get)
    assert hit.repeats[0].trust == "self-published"
    hit, order, _ = ranked(m03="owner")
    assert order[0] == "m03"
    hit, order, own = ranked(m03="owner", copy01="verified")
    assert order[:2] == ["copy01", "m03"]
    assert hit.distance == own["copy01"]


def test_many_copies_do_not_hide_what_lies_behind_them(honest, make_spec, ask):
    crowd = _copies(make_spec, honest[3], 60)
    query = ask(honest[3].image_embeddings.mean(axis=0), prompt=None)
    hits = index_of(*honest, *crowd).rank(query, top=4).hits
    assert len(hits) == 4
    assert len(hits[0].repeats) == 60
    assert hits[3].margin is not None


def test_copies_do_not_share_a_suspicion(honest, make_spec, ask):
    """What is not wanted moves a model back as far as without its copies."""
    wanted, unwanted = (ask(honest[i].image_embeddings[:3], prompt=None) for i in (3, 3))
    alone = index_of(*honest)
    copied = index_of(*honest, *_copies(make_spec, honest[3]))
    ours, theirs = (index.select(Filters())[0].group for index in (copied, alone))
    for name in ("scatter", "temperature"):
        ours.__dict__[name] = getattr(theirs, name)

    def moved(index):
        found = []
        for against in (None, unwanted):
            hits = index.rank(wanted, unwanted=against, top=None, repeats=True).hits
            found.append(next(hit.distance for hit in hits if hit.ref.id == "m03"))
        return found[1] - found[0]

    assert moved(alone) > 0.3
    assert moved(copied) == pytest.approx(moved(alone), rel=0.2)


class TestSeparation:
    def scatter(self, content=2.0):
        random = np.random.default_rng(5)
        return WithinScatter.of(random.standard_normal((50, 40, DIMENSIONS)) * content)

    def test_it_is_one_on_average_for_two_draws_of_one_model(self):
        random = np.random.default_rng(6)
        images = random.standard_normal((400, 40, DIMENSIONS)) * 2 + 5
        means, excess = whiten(mean_images(images), self.scatter(), 40)
        found = [separations(means[i], means[i + 1 : i + 2], excess)[0] for i in range(0, 400, 2)]
        # A little less than 1, since one mean may be made longer.
        assert np.mean(found) == pytest.approx(1, abs=0.2)
        assert np.min(found) > REPEATED / 4

    def test_length_and_rounding_make_no_difference(self):
        mean = np.random.default_rng(7).standard_normal((1, DIMENSIONS))
        means, excess = whiten(
            np.concatenate([mean, mean * 1.4, (mean * 1.1).astype(np.float16), mean * 4]),
            self.scatter(),
            40,
        )
        assert separations(means[0], means[1:3], excess) == pytest.approx([0, 0], abs=1e-4)
        assert separations(means[0], means[3:], excess)[0] > 1

    def test_without_statistics_only_equal_means_repeat(self):
        means = np.array([[1.0, 2], [1, 2], [1, 2.1]])
        assert repeat_groups(means, 0.0) == [[0, 1], [2]]

    def test_a_chain_is_no_group(self):
        step = np.sqrt(2 * 0.1 * REPEATED * 0.9)
        means = np.zeros((9, 3))
        means[:, 0], means[:, 1] = 5, step * np.arange(9)
        groups = repeat_groups(means, 0.1)
        assert max(map(len, groups)) == 2
        assert sorted(row for group in groups for row in group) == list(range(9))

    def test_what_lies_between_two_models_does_not_make_them_one(self):
        # Squared, the whole way is four times the half.
        means = np.zeros((3, 3))
        means[:, 0], means[:, 1] = 5, np.sqrt(2 * 0.1 * REPEATED * 0.9) * np.arange(3)
        for order in ([0, 1, 2], [1, 0, 2], [2, 0, 1]):
            groups = [[order[row] for row in group] for group in repeat_groups(means[order], 0.1)]
            assert not any({0, 2} <= set(group) for group in groups)
            assert max(map(len, groups)) == 2

    def test_copies_of_one_original_need_not_be_near_each_other(self):
        random = np.random.default_rng(8)
        original = random.standard_normal(200) * 3
        noise = random.standard_normal((12, 200))
        noise *= np.sqrt(2 * 0.1 * REPEATED * 0.8) / np.linalg.norm(noise, axis=1)[:, None]
        rows = np.concatenate([original + noise, original[None]])
        assert repeat_groups(rows, 0.1) == [list(range(13))]
