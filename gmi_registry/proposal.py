"""What a registry's maintainers are told of a proposal beside the models that there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gmi_registry.background import kept_pictures
from gmi_registry.hubs.registry.review import Finding
from gmi_registry.index import Hubness, IndexedSpec, SpecCache, measure_hubness
from gmi_registry.index.groups import ModelGroup, identity_of
from gmi_registry.index.hubness import CANDIDATE, FEWEST, repeated_members, usual_norms
from gmi_registry.scoring.kernels import norm_range
from gmi_registry.spec import Spec

_NAMED = 3
_HINT = "gmi index build DIR --hub HUB, and --index DIR"
# What one encoder gives for images differs in length by a factor of two or three in all.
_TIMES_AS_LONG = 3.0


def proposal_findings(spec: Spec, group: ModelGroup | None, cache: SpecCache) -> list[Finding]:
    """Whether a proposed specification holds what its encoder gives for images, repeats a model of
    ``group``, or is near all of them.

    ``group`` is the group of what it may be compared with, None where nothing is known of one. An
    earlier specification of the same model is no other model. Background pictures take part where
    ``cache`` has what the encoder made of them. Raises what the group raises.
    """
    images = IndexedSpec.of(spec).image_embeddings
    encoder = spec.manifest.encoder
    pictures = kept_pictures(encoder.id, encoder.image_dim, cache)
    norms = _norms(images, group, pictures)
    if group is None:
        why = "there is no index of models that this one can be compared with"
        return [norms, Finding("copies", "skipped", why, _HINT), Finding("hubness", "skipped", why)]
    found = measure_hubness(group, pictures, images)
    return [norms, _copies(spec, group, repeated_members(group, images)), _near_all(found)]


def _norms(
    images: NDArray[np.float16], group: ModelGroup | None, pictures: NDArray[np.float32] | None
) -> Finding:
    """By the pictures, which are the reader's own; where these were never read, by what most of the
    other models hold."""
    if pictures is not None:
        lengths = np.linalg.norm(pictures, axis=1)
        usual, whose = (float(lengths.min()), float(lengths.max())), "the background pictures have"
    elif group is not None and (known := usual_norms(group)) is not None:
        usual, whose = known, "most models have"
    else:
        why = "nothing to compare norms with: no eight models, and no background pictures"
        return Finding("norms", "skipped", why, _HINT)
    least, most = (float(norm) for norm in norm_range(images[None])[0])
    detail = f"norms of {least:.3g} to {most:.3g}, where {whose} {usual[0]:.3g} to {usual[1]:.3g}"
    inside = least >= usual[0] / _TIMES_AS_LONG and most <= usual[1] * _TIMES_AS_LONG
    if inside:
        return Finding("norms", "ok", detail)
    hint = "its author must publish it again with the encoder that it names"
    return Finding("norms", "failed", f"not what its encoder gives for images: {detail}", hint)


def _copies(spec: Spec, group: ModelGroup, rows: Sequence[int]) -> Finding:
    own = str(spec.manifest.model.ref.identity)
    names = [group.names[row] for row in rows]
    others = [name for name in names if identity_of(name) != own]
    if not others:
        return Finding("copies", "ok", f"repeats none of the {len(group.names):,} models")
    more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
    # A LoRA and what it was merged into are honest repeats, so that this is for people to weigh.
    return Finding("copies", "ok", f"the same images as {', '.join(others[:_NAMED])}{more}")


def _near_all(found: Hubness) -> Finding:
    model = found.of(CANDIDATE)
    if model is None or found.models < FEWEST:
        few = f"{found.models:,} models are too few to say what is near all of them"
        return Finding("hubness", "skipped", few)
    detail = (
        f"first for {model.first:.1%} of {found.asked:,} images of other models; "
        f"its share would be {found.share:.1%}"
    )
    if model.pictured is not None:
        detail += f", and for {model.pictured:.1%} of {found.pictures} background pictures"
    if not found.is_universal(model):
        return Finding("hubness", "ok", detail)
    hint = "a maintainer looks at its pictures, decides, and merges by hand"
    return Finding("hubness", "failed", f"near everything: {detail}", hint)
