"""What a registry's maintainers are told of a proposal beside the models that there are."""

from __future__ import annotations

from collections.abc import Sequence

from gmi_registry.background import background_of
from gmi_registry.hubs.registry.finding import Finding
from gmi_registry.index import Hubness, IndexedSpec, SpecCache, measured
from gmi_registry.index.hubness import CANDIDATE, FEWEST, repeated_by
from gmi_registry.index.name import identity_of
from gmi_registry.index.stack import Stack
from gmi_registry.spec import Spec

__all__ = ["compared"]

_NAMED = 3


def compared(spec: Spec, stack: Stack | None, cache: SpecCache) -> list[Finding]:
    """Whether a proposed specification repeats a model of ``stack``, or is near all of them.

    ``stack`` is the group of what it may be compared with, None where nothing is known of one. An
    earlier specification of the same model is no other model. Background pictures take part where
    ``cache`` has what the encoder made of them. Raises what the stack raises.
    """
    if stack is None:
        why = "no index of models that this one can be compared with"
        hint = "gmi index build DIR --hub HUB, and --index DIR"
        return [Finding("copies", "skipped", why, hint), Finding("hubness", "skipped", why, hint)]
    images = IndexedSpec.of(spec).image_embeddings
    found = measured(stack, background_of(stack, cache), images)
    return [_copies(spec, stack, repeated_by(stack, images)), _near_all(found)]


def _copies(spec: Spec, stack: Stack, rows: Sequence[int]) -> Finding:
    own = str(spec.manifest.model.ref.identity)
    names = [stack.names[row] for row in rows]
    others = [name for name in names if identity_of(name) != own]
    if not others:
        return Finding("copies", "ok", f"repeats none of {len(stack.names):,} models")
    more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
    # A LoRA and what it was merged into are honest repeats, so that this is for people to weigh.
    return Finding("copies", "ok", f"the same images as {', '.join(others[:_NAMED])}{more}")


def _near_all(found: Hubness) -> Finding:
    hub = found.of(CANDIDATE)
    if hub is None or found.models < FEWEST:
        few = f"{found.models:,} models are too few to say what is near all of them"
        return Finding("hubness", "skipped", few)
    detail = (
        f"first for {hub.first:.1%} of {found.asked:,} images of other models, "
        f"where {found.share:.1%} would be its share"
    )
    if hub.pictured is not None:
        detail += f", and for {hub.pictured:.1%} of {found.pictures} background pictures"
    if not found.is_universal(hub):
        return Finding("hubness", "ok", detail)
    hint = "a maintainer looks at its pictures, decides, and merges by hand"
    return Finding("hubness", "failed", f"near everything: {detail}", hint)
