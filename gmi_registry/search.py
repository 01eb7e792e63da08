"""The identification stage: from images to the models of a hub that would make their like.

:func:`search` is the whole stage in one place. Images never leave this machine, and nothing is read
of a model but its two small files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from gmi_registry.clock import Clock, Progress, Stage, Timings
from gmi_registry.encoders.protocol import Encoder
from gmi_registry.errors import GmiError, IncomparableSpecsError, InputError
from gmi_registry.hubs.protocol import Hub, Listing, ListingFilter
from gmi_registry.index import (
    Filters,
    GroupRanking,
    IndexEntry,
    SearchHit,
    SpecCache,
    SpecIndex,
    SpecSource,
)
from gmi_registry.index import SearchResult as Ranking
from gmi_registry.scoring import score_named
from gmi_registry.spec import EncoderRef, ModelRef, Spec, read_manifest, read_spec

__all__ = ["Progress", "SearchResult", "Stage", "Timings", "search"]

ImageSource = str | Path | bytes | Image
_COUNTS = ("looked_at", "matched", "read", "from_cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult(Ranking):
    """The rankings, what was asked, and what it took.

    ``looked_at`` counts the models with a specification on the hub, ``matched`` those that passed
    the filter and could be read. Of the specifications that the filter let through ``read`` were
    read from the hub and ``from_cache`` were known. ``images`` are names for people;
    ``pseudo_prompts`` stand in their order, None for an image without one. ``encoder`` is None
    where nothing was there to compare with.
    """

    score: str
    images: tuple[str, ...]
    pseudo_prompts: tuple[str | None, ...]
    interrogator: str
    encoder: EncoderRef | None
    read: int
    from_cache: int
    timings: Timings

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``: ``results`` rank the largest group of comparable models.

        ``other_groups`` hold the rest, whose distances cannot be compared with those.
        """
        groups = [_group_json(group) for group in self.groups]
        return {
            "query": {
                "images": list(self.images),
                "pseudo_prompts": list(self.pseudo_prompts),
                "interrogator": self.interrogator,
            },
            "score": self.score,
            "results": groups[0]["results"] if groups else [],
            "other_groups": groups[1:],
            "skipped": [{"model": str(it.model), "reason": it.reason} for it in self.skipped],
            "encoder": None if self.encoder is None else self.encoder.known(),
            **{name: getattr(self, name) for name in _COUNTS},
            "groups": [
                {key: group[key] for key in ("group", "prompt_set", "members")} for group in groups
            ],
            "timings": asdict(self.timings),
        }


def search(
    images: Sequence[ImageSource],
    hub: Hub,
    *,
    wanted: ListingFilter | None = None,
    score: str = "default",
    interrogator: str = "none",
    prompt: str | None = None,
    top: int | None = 10,
    cache_dir: Path | None = None,
    encoder: Encoder | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> SearchResult:
    """Rank the models of ``hub`` by how near their images are to ``images``, which are one query.

    Only models that pass ``wanted`` are compared, and ``top`` are shown of each group (None: all).
    ``prompt`` says what the images show; without it ``interrogator`` may guess. Specifications that
    were read once are kept in ``cache_dir`` (None: this user's cache) under their digests, and are
    read again only when they change. ``encoder`` is by default the one that most of the
    specifications were made with.

    A specification that cannot be used is in ``skipped`` with the reason; where none is left, or
    none passes the filter, the result is empty. Raises InputError for an image, score or prompt
    that cannot be used, IncomparableSpecsError where the encoder is not the one that made the
    specifications, and whatever error the hub has for the listing as a whole.
    """
    from gmi_registry.query import PROMPT_MODE, build_query

    wanted = wanted or ListingFilter()
    clock = Clock(progress)
    score_named(score)
    pictures, names = _opened(images)

    clock.begin("list")
    listings, looked_at = _listed(hub, wanted)
    clock.begin("index")
    index, read = _indexed(hub, listings, cache_dir, progress)

    filters = Filters(wanted.tags, wanted.not_tags, wanted.base_model, wanted.kind)
    matched = [entry for entry in index.entries if filters.match(entry)]
    ranking = Ranking((), index.skipped, looked_at, 0)
    pseudo_prompts: tuple[str | None, ...] = (prompt,) * len(pictures)
    mode = interrogator if prompt is None else PROMPT_MODE
    if matched:
        clock.begin("encoder")
        encoder = _encoder_of(matched, hub) if encoder is None else encoder
        clock.begin("query")
        prompts = tuple(dict.fromkeys(text for entry in matched for text in entry.prompts))
        query = build_query(
            pictures, encoder, interrogator=interrogator, prompt=prompt, phrases=prompts
        )
        pseudo_prompts, mode = query.pseudo_prompts, query.interrogator
        clock.begin("rank")
        ranking = index.rank(query, score, filters, top=top)
    clock.end()
    return SearchResult(
        groups=ranking.groups,
        skipped=ranking.skipped,
        looked_at=looked_at,
        matched=ranking.matched,
        score=score,
        images=names,
        pseudo_prompts=pseudo_prompts,
        interrogator=mode,
        encoder=encoder.ref if encoder is not None else None,
        read=read,
        from_cache=len(listings) - read,
        timings=clock.timings,
    )


def _opened(images: Sequence[ImageSource]) -> tuple[list[Image], tuple[str, ...]]:
    """Before anything that takes long: a mistyped name should not cost minutes."""
    from gmi_registry.images import load_image, to_rgb

    if isinstance(images, str | bytes) or not images:
        raise InputError("a query is a list of at least one image", hint="search([image], hub)")
    pictures, names = [], []
    for number, image in enumerate(images, start=1):
        is_named = isinstance(image, str | Path)
        names.append(str(image) if is_named else f"image {number}")
        pictures.append(to_rgb(image) if isinstance(image, Image) else load_image(image))
    return pictures, tuple(names)


def _listed(hub: Hub, wanted: ListingFilter) -> tuple[list[Listing], int]:
    """What passes the hub's filter, and how many models with a specification the hub has in all."""
    listings = list(hub.list_specs(wanted))
    if wanted == ListingFilter():
        return listings, len(listings)
    return listings, sum(1 for _ in hub.list_specs(ListingFilter()))


def _indexed(
    hub: Hub, listings: Sequence[Listing], cache_dir: Path | None, progress: Progress
) -> tuple[SpecIndex, int]:
    """The specifications in memory, and how many of them came from the hub."""
    if cache_dir is None:
        from platformdirs import user_cache_path

        cache_dir = user_cache_path("gmi-registry", appauthor=False)
    fetched: list[ModelRef] = []

    def source(listing: Listing) -> SpecSource:
        def load() -> Spec:
            fetched.append(listing.ref)
            return read_spec(hub.fetch_spec(listing.ref).parent, expected=listing.ref)

        return SpecSource(listing.ref, load, digest=listing.spec_digest)

    index = SpecIndex.from_sources(
        map(source, listings),
        cache=SpecCache(cache_dir),
        progress=lambda done, total: progress("index", done, total),
    )
    return index, len(fetched)


def _encoder_of(matched: Sequence[IndexEntry], hub: Hub) -> Encoder:
    """The encoder of the largest group of comparable models, the hub's own copy where it has one.

    Raises IncomparableSpecsError where what that name loads is not what made the specifications.
    """
    from gmi_registry.encoders import EncoderName, load_encoder

    groups = Counter(entry.key for entry in matched)
    largest = max(groups, key=lambda key: (groups[key], str(key)))
    first = next(entry for entry in matched if entry.key == largest)
    try:
        name = EncoderName.parse(first.encoder)
    except InputError as error:
        raise IncomparableSpecsError(
            f"{first.model} and {groups[largest] - 1} others name an encoder that cannot be "
            f"loaded: {error.message}",
            hint="give the encoder that made them: search(..., encoder=...)",
        ) from None
    encoder = load_encoder(*name, hub.fetch_encoder(*name))
    if encoder.ref.id != largest.encoder_id:
        raise IncomparableSpecsError(
            f"the encoder {name} that was loaded is not the one that made the specifications: "
            f"{_difference(encoder.ref, first, hub)}",
            hint="put the encoder that they name into the hub, or publish the models again",
        )
    return encoder


def _difference(found: EncoderRef, entry: IndexEntry, hub: Hub) -> str:
    """In what the encoder differs from the one that the specification of ``entry`` names."""
    try:
        stated = read_manifest(hub.fetch_spec(entry.model).parent).encoder
    except GmiError:  # it was there a moment ago, and is wanted for this message alone
        return f"id {found.id}, not {entry.key.encoder_id}"
    if found.weights_sha256 != stated.weights_sha256:
        return f"weights {found.weights_sha256[:12]}, not {stated.weights_sha256[:12]}"
    ours, theirs = found.known(), stated.known()
    return "the same weights with another " + ", ".join(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )


def _group_json(group: GroupRanking) -> dict[str, Any]:
    shared = {name: getattr(group, name) for name in ("prompt_set", "encoder", "members")}
    return {"group": str(group.key)} | shared | {"results": [_hit_json(hit) for hit in group.hits]}


def _hit_json(hit: SearchHit) -> dict[str, Any]:
    plain = asdict(hit)
    del plain["ref"], plain["group"]
    return {"rank": hit.rank, "model": str(hit.ref)} | plain
