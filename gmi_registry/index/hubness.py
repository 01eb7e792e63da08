"""Which models of a group are near everything, measured on the others' images and on pictures.

Who takes part is drawn by lot, with the digest of all members as the seed: a member that wants to
be drawn has to know all others, and changes the lot for everybody by joining.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.entry import Universal
from gmi_registry.scoring.repeats import (
    REPEATED,
    SampleModel,
    count_neighbours,
    lower_share,
    nearest_members,
    repeat_groups,
    separations,
    whiten,
)

if TYPE_CHECKING:
    from gmi_registry.index.groups import ModelGroup
    from gmi_registry.scoring.kernels import Floats

CANDIDATE = "candidate"
"""The name of a specification that is measured against a group and is no member of it."""

FEWEST = 8
"""Of fewer models each is first often, and nothing can be said."""

# Models whose images are asked for, and images of all of them together.
_DRAWN = 64
# Members among which it is looked for who repeats whom.
_LOT = 512
# The images of a large index are gigabytes, in many files; so many are read.
_FILES = 8
_IMAGES = 1024
# A model stands out that is first so many times as often as its share, and for so much of all.
_TIMES = 3.5
_LEAST = 0.1
# And for some image of so many of the models: a few that somebody put near another prove nothing.
_BREADTH = 1 / 3
# Pictures that no model was made for are often all nearest to the plainest model; see the docs.
_MOST_PICTURES = 0.5
_SHOWN = 10
_AT_ONCE = 4096


class FrequentNeighbour(NamedTuple):
    """One model: the shares of images that it is ``first`` for, and among the first ten,
    ``tenth``; ``breadth``, of how many models it is first for some image; ``pictured``, the share
    of pictures, None where there were none. ``certain`` and ``certain_pictured`` are what is left
    of ``first`` and ``pictured`` beyond chance."""

    model: str
    first: float
    tenth: float
    breadth: float
    certain: float
    pictured: float | None
    certain_pictured: float


@dataclass(frozen=True)
class Hubness:
    """Of ``models``, those that repeat each other counted once: ``asked`` images of others and
    ``pictures``, and the models that were first most often, ``frequent``, the first of them first.
    Models that repeat each other are among them together. Each would be first for ``share`` by
    chance."""

    models: int
    asked: int
    pictures: int
    frequent: tuple[FrequentNeighbour, ...]

    @property
    def share(self) -> float:
        """Of all images, what falls to each of so many models."""
        return 1 / self.models

    def is_universal(self, model: FrequentNeighbour) -> bool:
        """Whether a model is nearest to so much that it cannot be for what its images are."""
        if self.models < FEWEST:
            return False
        limit = max(_TIMES * self.share, _LEAST)
        by_models = model.certain >= limit and model.breadth >= _BREADTH
        return by_models or model.certain_pictured >= _MOST_PICTURES

    def of(self, name: str) -> FrequentNeighbour | None:
        """What is known of a model by its name, None for one that is not frequent."""
        return next((it for it in self.frequent if it.model == name), None)

    @property
    def universal(self) -> dict[str, Universal]:
        """What is to be said of the models that :meth:`is_universal`, by their names."""
        return {
            it.model: Universal(it.first, self.share, it.pictured)
            for it in self.frequent
            if self.is_universal(it)
        }

    def to_bytes(self) -> bytes:
        """JSON that :meth:`from_bytes` reads."""
        plain = asdict(self)
        del plain["frequent"]
        plain["hubs"] = [it._asdict() for it in self.frequent]
        return json.dumps(plain, ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Hubness:
        """The inverse of :meth:`to_bytes`. Raises some Exception for anything else."""
        plain: dict[str, Any] = json.loads(data)
        frequent = tuple(FrequentNeighbour(**it) for it in plain.pop("hubs"))
        return cls(**plain, frequent=frequent)


def measure_hubness(
    group: ModelGroup,
    pictures: Floats | None = None,
    candidate: NDArray[np.float16] | None = None,
) -> Hubness:
    """Measure the members of ``group``, and a ``candidate`` [N, D] among them, of which statistics
    know nothing, and which is among the frequent ones whatever it is.

    ``pictures`` [B, D] are images that no model made. Some of the members' images are read. Raises
    what the group raises.
    """
    members = len(group.names)
    names = list(group.names) if candidate is None else [*group.names, CANDIDATE]
    excess = group.whitened(range(min(1, members)))[1]
    own = None
    if candidate is not None:
        own = _turned(group, candidate).mean(axis=0, keepdims=True)

    def means(rows: Sequence[int]) -> Floats:
        inside = [row for row in rows if row < members]
        found = group.whitened(inside)[0] if inside else np.empty((0, group.image_dim))
        return found if own is None or len(inside) == len(rows) else np.vstack([found, own])

    drawn, distinct = _drawn(group, excess)
    asked = np.empty((0, group.image_dim)) if pictures is None else _turned(group, pictures)
    by_models, by_pictures = nearest_members(len(names), means, drawn, asked, excess)
    winners = np.unique(np.concatenate([by_models.ravel(), by_pictures.ravel()]))
    winners = winners[winners >= 0]
    if candidate is not None:
        winners = np.union1d(winners, [members])
    alike = repeat_groups(means(winners.tolist()), excess, window=len(winners))
    numbers = np.full(len(names) + 1, -1, np.intp)  # the last is for -1
    for number, places in enumerate(alike):
        numbers[winners[places]] = number
    ours = count_neighbours(numbers[by_models], len(drawn), len(alike))
    theirs = count_neighbours(numbers[by_pictures], 0, len(alike))
    shown = np.lexsort((-theirs.first, -ours.first))[:_SHOWN].tolist()
    shown += np.argsort(-theirs.first, kind="stable")[:1].tolist()
    if candidate is not None:
        shown.append(int(numbers[members]))
    frequent = [
        FrequentNeighbour(
            model=names[row],
            first=_share(ours.first[number], len(by_models)),
            tenth=_share(ours.tenth[number], len(by_models)),
            breadth=_share(ours.breadth[number], len(drawn)),
            certain=lower_share(int(ours.first[number]), len(by_models)),
            pictured=_share(theirs.first[number], len(asked)) if len(asked) else None,
            certain_pictured=lower_share(int(theirs.first[number]), len(asked)),
        )
        for number in dict.fromkeys(shown)
        for row in winners[alike[number]].tolist()
    ]
    models = max(1, round(distinct * members)) + (candidate is not None)
    return Hubness(models, len(by_models), len(asked), tuple(frequent))


def repeated_members(group: ModelGroup, candidate: NDArray[np.float16]) -> list[int]:
    """Members of ``group`` that a specification with the images ``candidate`` [N, D] repeats."""
    own = _turned(group, candidate).mean(axis=0)
    found: list[int] = []
    for start in range(0, len(group.names), _AT_ONCE):
        rows = range(start, min(start + _AT_ONCE, len(group.names)))
        means, excess = group.whitened(rows)
        found += (start + np.flatnonzero(separations(own, means, excess) <= REPEATED)).tolist()
    return found


def usual_norms(group: ModelGroup) -> tuple[float, float] | None:
    """The least and the greatest norm of the images of most members, drawn by lot: the medians of
    each member's own. None where there are too few members to say what is usual."""
    if len(group.names) < FEWEST:
        return None
    seed = hashlib.sha256(group.digest.encode()).digest()
    random = np.random.default_rng(list(seed))
    rows = _lot(group, random.permutation(len(group.names)))[:_DRAWN]
    least, most = np.median(group.row_norms(rows.tolist()), axis=0)
    return float(least), float(most)


def _share(count: int, asked: int) -> float:
    return float(count) / max(asked, 1)


def _turned(group: ModelGroup, images: Floats) -> Floats:
    """Images [n, D], whitened."""
    return whiten(images.astype(np.float32), group.scatter, len(group.image_prompt))[0]


def _lot(group: ModelGroup, lot: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first of ``lot`` that lie in few files, as many of each."""
    files = group.files(lot[: 4 * _LOT].tolist())
    firsts = np.sort(np.unique(files, return_index=True)[1])[:_FILES]
    if len(firsts) < _FILES:
        return lot[:_LOT]
    files = group.files(lot.tolist())
    kept = [np.flatnonzero(files == files[first])[: _LOT // _FILES] for first in firsts.tolist()]
    return np.asarray(lot[np.sort(np.concatenate(kept))])


def _drawn(group: ModelGroup, excess: float) -> tuple[list[SampleModel], float]:
    """Members that are drawn, in the order of the lot, and as many images of each; and how many of
    the members are distinct, as a share. Of those that repeat each other one is drawn."""
    seed = hashlib.sha256(group.digest.encode()).digest()
    random = np.random.default_rng(list(seed))
    members, images = len(group.names), len(group.image_prompt)
    lot = _lot(group, random.permutation(members))
    means = group.whitened(lot.tolist())[0]
    alike = repeat_groups(means, excess, window=len(lot))
    places = [repeats[0] for repeats in alike[:_DRAWN]]
    each = min(images, _IMAGES // max(len(places), 1))
    rows = lot[places].tolist()
    if not rows:
        return [], 1.0
    chosen = np.stack([np.sort(random.choice(images, each, replace=False)) for _ in rows])
    some = np.take_along_axis(group.images(rows), chosen[:, :, None], axis=1)
    turned = _turned(group, some.reshape(-1, group.image_dim)).reshape(*some.shape)
    drawn = [SampleModel(*it) for it in zip(rows, turned, means[places], strict=True)]
    return drawn, len(alike) / max(len(lot), 1)
