"""Copies and hubs in an index of files: the same as in memory."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from gmi_registry.index import (
    Filters,
    ImageQuery,
    TextQuery,
    hubness,
    measure_hubness,
    queries,
    rank,
)
from gmi_registry.index.stored import reader, update_index
from gmi_registry.scoring import SCORES
from gmi_registry.scoring import prefilter as scoring_prefilter
from gmi_registry.scoring.prefilter import Care, refines_all
from tests.index_stored.test_stored_answer import same
from tests.support.stored_specs import Opened, in_memory, make_row, query, stored

VICTIM = 4


@pytest.fixture(params=["small", "large"])
def both(request, tmp_path, monkeypatch):
    """Sixty models, one of them with thirty copies, as a small index and as a large one."""
    if request.param == "large":
        monkeypatch.setattr(reader, "PREFILTER_MODELS", 50)
        monkeypatch.setattr(rank, "_MANY", 50)
        monkeypatch.setattr(scoring_prefilter, "LEADING", 5)
        monkeypatch.setattr(scoring_prefilter, "_LEAST_EXACT", 16)
        monkeypatch.setattr(scoring_prefilter, "_EXACT_EACH", 1)
        monkeypatch.setattr(queries, "refines_all", partial(refines_all, care=Care(16, 1)))
    rows = [make_row(number, model=f"hf:o/m{number}") for number in range(60)]
    rows += [make_row(number, model=f"hf:o/m{number}", seed=VICTIM) for number in range(100, 130)]
    with stored(tmp_path / "i", rows[::2], rows[1::2], cache=tmp_path / "cache") as index:
        yield in_memory(rows), Opened(index)


@pytest.mark.parametrize("top", [1, 10, 60])
def test_copies_are_one_hit(both, top):
    memory, files = both
    victim = make_row(VICTIM).indexed.image_embeddings
    asked = query(1)
    asked.image_embeddings[:] = victim.mean(axis=0)
    for question in (
        ImageQuery(asked, SCORES["default"]),
        ImageQuery(asked, SCORES["paper"]),
        TextQuery(asked.image_embeddings[0], asked.encoder_id),
    ):
        ours = memory.answer(question, top=top)
        found = files.answer(question, top=top)
        same(ours, found, exactly=False)
        hits = found.groups[0].hits
        assert len(hits) == top
        crowd = [hit for hit in hits if hit.repeats]
        assert all(len(hit.repeats) == 30 for hit in crowd)
        if isinstance(question, ImageQuery):
            assert crowd == [hits[0]]
        assert [[it.ref for it in hit.repeats] for hit in hits] == [
            [it.ref for it in hit.repeats] for hit in ours.groups[0].hits
        ]
        # Of all that repeat each other a verified one is shown.
        assert all(hit.trust == "verified" for hit in crowd)


def test_hubs_are_measured_alike(both, tmp_path):
    memory, files = both
    (ours,), (theirs,) = memory.select(Filters()), files.select(Filters())
    found = measure_hubness(theirs.group)
    # Another lot is drawn, of the same models.
    assert found.models == measure_hubness(ours.group).models == 60
    before = theirs.group.digest
    update_index(tmp_path / "i", [make_row(200)])
    with stored(tmp_path / "i", cache=tmp_path / "cache") as index:
        assert index.groups[0].digest != before


def test_images_are_read_from_few_files(tmp_path, monkeypatch):
    monkeypatch.setattr(hubness, "_FILES", 3)
    monkeypatch.setattr(hubness, "_LOT", 12)
    updates = [[make_row(10 * part + number) for number in range(10)] for part in range(5)]
    folder = tmp_path / "i"
    with stored(folder, *updates, cache=tmp_path / "cache") as index:
        (group,) = index.groups
        lot = hubness._lot(group, np.random.default_rng(0).permutation(50))
        assert len(lot) == len(set(lot.tolist()))
        assert len(set(group.files(lot.tolist()).tolist())) <= 3
