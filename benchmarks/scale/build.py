"""The index that is asked: whole, or without the images that the disk has no room for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.scale.hub import BLOCK, ENCODER, KEY, OWNER, PROMPTS, D, MadeHub, N, entry
from benchmarks.scale.spectrum import ICONS
from gmi_registry.index.stored import update_index
from gmi_registry.index.stored.format import (
    FileMetadata,
    GroupMetadata,
    IndexDocument,
    KeyMetadata,
    NamedPrompts,
    PartMetadata,
    Statistics,
    StatisticsMetadata,
    StoredMetadata,
    file_name,
    part_layout,
    prompts_layout,
    sample_of,
)
from gmi_registry.index.stored.writer import IndexFolder


def whole(folder: Path, models: int, hub: MadeHub) -> None:
    """As ``gmi index build`` writes it."""
    update_index(folder, hub.rows(0, models))


def without_images(folder: Path, models: int, hub: MadeHub) -> None:
    """The same files less images and Gram matrices, which ``index.json`` names all the same, with
    digests that no file has: whoever asked for one would be refused."""
    folder.mkdir(parents=True, exist_ok=True)
    key = KeyMetadata(
        encoder_id=KEY.encoder_id,
        prompt_set_id=KEY.prompt_set_id,
        kernel="rbf",
        gamma=KEY.gamma,
        images_per_prompt=1,
    )
    store = IndexFolder(folder)
    with ProcessPoolExecutor(2) as pool:
        blocks = range(models // BLOCK)
        parts = tuple(pool.map(_part, [folder] * len(blocks), [key.folder] * len(blocks), blocks))
    layout = prompts_layout(N, D)
    record = GroupMetadata(
        key=key,
        encoder=ENCODER,
        prompt_set=NamedPrompts(name=PROMPTS.name, prompts=PROMPTS.prompts),
        prompt_embeddings=store.put(key.folder, "prompts", layout.pieces({"prompts": hub.prompts})),
        statistics=_statistics(store, key.folder, models, hub),
        parts=parts,
    )
    document = IndexDocument(groups=(record,))
    store.conclude(document.to_bytes(), document.files)


def _part(folder: Path, group: str, block: int) -> PartMetadata:
    hub, store = MadeHub(ICONS), IndexFolder(folder)
    layout = part_layout("means", BLOCK, N, D)
    numbers = range(block * BLOCK, (block + 1) * BLOCK)
    return PartMetadata(
        rows=BLOCK,
        entries=store.put(group, "entries", _lines(numbers)),
        means=store.put(group, "means", layout.pieces({"means": hub.means(block)})),
        images=_absent(group, "images", block),
        grams=_absent(group, "grams", block),
    )


def _lines(numbers: range) -> Iterator[bytes]:
    for number in numbers:
        yield StoredMetadata.of(entry(number), OWNER, PROMPTS.name).to_bytes() + b"\n"


def _absent(group: str, kind: str, block: int) -> FileMetadata:
    digest = hashlib.sha256(b"%s %d" % (kind.encode(), block)).hexdigest()
    size = part_layout(kind, BLOCK, N, D).size
    return FileMetadata(name=file_name(group, kind, digest), sha256=digest, size=size)


def _statistics(store: IndexFolder, group: str, models: int, hub: MadeHub) -> StatisticsMetadata:
    numbers = sorted(range(models), key=lambda number: str(entry_name(number)))
    digests = [hashlib.sha256(b"%d" % number).hexdigest() for number in numbers]

    def images(rows: Sequence[int]) -> np.ndarray:
        return np.stack([hub.images(numbers[row]) for row in rows])

    found = Statistics.of(digests, images, np.arange(N, dtype=np.int32))
    pieces = Statistics.layout(D).pieces(found.arrays)
    return StatisticsMetadata(
        file=store.put(group, "statistics", pieces),
        freedom=found.scatter.freedom,
        temperature=found.temperature,
        sample=sample_of(digests),
    )


def entry_name(number: int) -> str:
    """The reference of a model as text, without making its entry."""
    return f"hf:owner-{number % 997}/model-{number:07}@{number:040x}"
