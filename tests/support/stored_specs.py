"""Rows made of numbers, and an index of them beside the one in memory."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import numpy as np

from gmi_registry.index import Filters, IndexedSpec, Selection, SpecIndex, SpecStatus
from gmi_registry.index.rank import rank_groups
from gmi_registry.index.stored import FolderFiles, NewSpec, StoredIndex, update_index
from gmi_registry.scoring import Query
from gmi_registry.spec import LoraPartial, ModelRef, PromptSet
from tests.support import index_specs
from tests.support.index_specs import spec_of

DIMENSIONS = 6
GENERAL = PromptSet("general", 1, ("a cat", "a tree", "a red car", "a castle", "a ship"))
OTHER = PromptSet("other", 1, ("a dragon", "a knight"))


def encoder_named(name="tiny"):
    return index_specs.encoder_named(name, DIMENSIONS, DIMENSIONS)


def make_spec(
    number,
    *,
    seed=None,
    model=None,
    prompt_set=GENERAL,
    encoder=None,
    seeds=(0,),
    prompts_seed=7,
    **described,
):
    """The specification of ``model``, by default of ``local:o/mNUMBER``."""
    ref = ModelRef.parse(model or f"local:o/m{number}@0123456789ab")
    rng = np.random.default_rng(number if seed is None else seed)
    rows = np.repeat(np.arange(len(prompt_set)), len(seeds))
    images = 3 * rng.standard_normal(DIMENSIONS) + rng.standard_normal((len(rows), DIMENSIONS))
    details = {
        "title": f"Model {number}",
        "kind": ("lora", "checkpoint", "single-file")[number % 3],
        "tags": ("icon", f"t{number % 4}"),
        "base_model": ("Owner/Base", "SDXL 1.0", None)[number % 3],
        "nsfw": number % 5 == 0,
        "downloads": None if number % 7 == 0 else 10 * number,
    } | described
    return spec_of(
        ref,
        images,
        encoder=encoder or encoder_named(),
        weights=hashlib.sha256(str(number).encode()).hexdigest(),
        prompt_sets=(prompt_set,),
        seeds=seeds,
        prompts_seed=prompts_seed,
        gamma=None,
        **details,
    )


def ref_of(number):
    """A name on one of three hubs, whose order is not that of the numbers."""
    return (
        f"hf:o/m{number}@{number:040x}",
        f"civitai:{number % 9 + 1}@{number + 100}",
        f"local:m{number}",
    )[number % 3]


@cache
def make_row(number, status=None, **changes):
    """A row on one of three hubs, with a status of its own. Made once: nobody changes it."""
    spec = make_spec(number, **({"model": ref_of(number)} | changes))
    status = status or SpecStatus(
        stale=(None, False, True)[number % 3],
        trust=("owner", "verified", "self-published", None)[number % 4],
        stamp=f"stamp {number}" if number % 2 else None,
    )
    row = renamed(NewSpec.of(spec, status), hub_tags=("Fresh",) if number % 5 == 1 else ())
    if number % 4 == 2:
        row = renamed(row, lora_partial=LoraPartial(applied=number, tensors=number + 100))
    return row if number % 7 else renamed(row, described_as=ModelRef("hf", f"o/former{number}"))


def renamed(row, model=None, **changes):
    """The row with another reference or metadata, and the same digest."""
    entry = row.indexed.entry
    changes |= {} if model is None else {"ref": ModelRef.parse(model)}
    return replace(row, indexed=replace(row.indexed, entry=replace(entry, **changes)))


def in_memory(rows):
    """The index in memory of some rows."""
    index = SpecIndex()
    for row in rows:
        entry = row.indexed.entry
        index._put(IndexedSpec(**vars(row.indexed)))
        index._status[str(entry.ref.identity)] = row.status
    return index


class Opened:
    """A stored index as an index that may be asked."""

    skipped = ()

    def __init__(self, stored):
        self.stored = stored

    def __len__(self):
        return len(self.stored)

    def status(self, name):
        return self.stored.status(name)

    def select(self, filters, leave_out=None):
        found = []
        for stack in self.stored.groups:
            rows = stack.select(filters)
            about = self.stored.find(leave_out) if leave_out else None
            rows = [row for row in rows if about != (stack, row)]
            if rows:
                found.append(Selection(stack, rows))
        return found

    def answer(self, question, filters=None, **options):
        chosen = self.select(filters or Filters(), question.about)
        return rank_groups(self, chosen, question, **options)


def stored(folder, *updates, cache):
    """An index that was brought about by some updates, opened."""
    for rows in updates:
        update_index(folder, rows)
    return StoredIndex.open(FolderFiles(folder), cache_dir=cache)


def query(seed=0, images=1, *, prompt=None, encoder=None):
    """Images, and a prompt where there is one."""
    rng = np.random.default_rng(seed)
    prompts = rng.uniform(0.1, 1, (images, DIMENSIONS)).astype(np.float32)
    return Query(
        image_embeddings=(2 * rng.standard_normal((images, DIMENSIONS))).astype(np.float32),
        prompt_embeddings=None if prompt is None else prompts,
        pseudo_prompts=(prompt,) * images,
        interrogator="none" if prompt is None else "phrases",
        encoder_id=(encoder or encoder_named()).id,
    )
