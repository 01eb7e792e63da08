"""What a registry's maintainers are told: of entries whose models they generate again, and of a
proposal beside the models that there are.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gmi_registry import generation
from gmi_registry.background import kept_pictures
from gmi_registry.device import require_device, require_dtype
from gmi_registry.encoders import Encoder, check_encoder, load_encoder
from gmi_registry.errors import HubError, IncomparableSpecsError, InputError
from gmi_registry.generation import BatchCache
from gmi_registry.generation.specification import require_room, require_writable
from gmi_registry.hubs.protocol import Hub, ModelOutline
from gmi_registry.hubs.registry.review import Finding, ImageComparison, compare_images
from gmi_registry.hubs.selection import main_file
from gmi_registry.index import Hubness, IndexedSpec, SpecCache, measure_hubness
from gmi_registry.index.groups import ModelGroup, identity_of
from gmi_registry.index.hubness import CANDIDATE, FEWEST, repeated_members, usual_norms
from gmi_registry.model import ModelFiles
from gmi_registry.scoring.kernels import norm_range
from gmi_registry.spec import LoraPartial, ModelRef, PromptSet, Spec

Progress = Callable[[Literal["check", "generate", "encode"], int, int], None]
"""Told (stage, done, total): steps in ``check``, pictures in the other two."""

_CHECKS = 3


def choose_prompts(spec: Spec, count: int, seed: int) -> tuple[str, ...]:
    """``count`` of the specification's prompts, all sets together, or all it has.

    The same ``seed`` chooses the same ones. Whoever makes a specification must not know it.
    """
    prompts = list(dict.fromkeys(_prompts(spec)))
    return tuple(random.Random(seed).sample(prompts, min(count, len(prompts))))


def audit(
    spec: Spec,
    hub: Hub,
    prompts: Sequence[str],
    *,
    work: Path,
    encoder: Encoder | None = None,
    device: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> ImageComparison:
    """Generate the images of ``prompts`` again, with all seeds, and compare them with those stated.

    The model is the one that ``hub`` has now (of a Civitai model the version that is described); it
    and its base must have the weights that the specification names. The recipe is the
    specification's own, precision included. ``work`` keeps the pictures until they are compared, or
    for the next call where this one was interrupted. ``encoder`` is by default the one that the
    specification names.

    Raises InputError for a prompt that the specification has not, HubError for other weights,
    IncomparableSpecsError where the encoder's name leads to another encoder, and whatever loading
    and generating raise.
    """
    strange = [prompt for prompt in prompts if prompt not in _prompts(spec)]
    if strange or not prompts:
        raise InputError(
            f"the specification has no prompt {strange[0]!r}" if strange else "no prompt to use",
            hint="choose some of its own prompts",
        )
    recipe = spec.manifest.generation.recipe
    progress("check", 0, _CHECKS)
    generation.require_packages()
    require_writable(work)
    device = require_device(device)
    require_dtype(device, recipe.dtype)
    if encoder is None:
        _check_encoder(spec, hub)
    model = _model(spec, hub)
    progress("check", 1, _CHECKS)
    encoder = _encoder(spec, hub, device) if encoder is None else encoder
    progress("check", 2, _CHECKS)
    # As when the specification was made: of a LoRA the share that is stated, at the stated scale.
    loaded = generation.load_model(
        model,
        device=device,
        dtype=recipe.dtype,
        allow_partial=recipe.lora_partial is not None,
        lora_scale=recipe.lora_scale,
    )
    _require_share(spec, loaded.lora_partial)
    pipeline = loaded.pipeline
    generation.check_settings(pipeline, recipe)
    require_room(work, len(prompts) * len(recipe.seeds) * 3 * recipe.width * recipe.height)
    progress("check", _CHECKS, _CHECKS)
    cache = BatchCache(work, model, recipe)
    encoding = generation.Encoding(
        encoder,
        len(prompts) * len(recipe.seeds),
        progress=lambda done, total: progress("encode", done, total),
    )
    generation.generate(
        pipeline,
        prompts,
        recipe,
        cache=cache,
        consumer=encoding,
        progress=lambda done, total: progress("generate", done, total),
    )
    prompt_set = PromptSet("audit", 1, tuple(prompts))
    again = generation.build_spec(model, encoding.rows(), encoder, [prompt_set], recipe)
    found = compare_images(spec, again)
    cache.discard()
    return found


def _prompts(spec: Spec) -> chain[str]:
    return chain.from_iterable(block.prompts for block in spec.manifest.prompt_sets)


def _model_ref(spec: Spec) -> ModelRef:
    """The reference by which the hub is asked for the model: on Hugging Face for what is there now,
    with the name of its main file."""
    model = spec.manifest.model
    ref = ModelRef("hf", model.id) if model.hub == "hf" else model.ref
    main = main_file([weight.path for weight in model.weights])
    if model.kind != "checkpoint" and main is not None:
        with contextlib.suppress(InputError):  # where a file cannot be named, there is one alone
            return replace(ref, file=main)
    return ref


def _model(spec: Spec, hub: Hub) -> ModelFiles:
    """The model with the weights that are described, compared before they are downloaded."""
    ref = _model_ref(spec)
    named = spec.manifest.model.named_base
    options = {} if named is None else {"base": named}
    look = getattr(hub, "outline", None)
    if look is not None:
        outline: ModelOutline = look(ref, **options)
        stated = {weight.path: weight.sha256 for weight in spec.manifest.model.weights}
        known = {path: sha256 for path, sha256 in outline.weights.items() if sha256 is not None}
        if stated.keys() != outline.weights.keys() or known.items() - stated.items():
            raise _other_weights(spec)
        ref = outline.ref
    model = hub.fetch_model(ref, **options)
    generation.check_model(model)
    _require_weights(spec, model)
    return model


def _check_encoder(spec: Spec, hub: Hub) -> None:
    stated = spec.manifest.encoder
    check_encoder(
        stated.name,
        stated.pretrained,
        hub.fetch_encoder(stated.name, stated.pretrained),
        offline=bool(getattr(hub, "offline", False)),
    )


def _other_weights(spec: Spec) -> HubError:
    return HubError(
        f"{spec.manifest.model.ref.without_revision} has other weights than those described",
        hint="its specification must be made again",
    )


def _require_weights(spec: Spec, model: ModelFiles) -> None:
    stated, found = spec.manifest.model, generation.describe(model)
    if found.weights_digest != stated.weights_digest:
        raise _other_weights(spec)
    if stated.base_weights is not None and (
        found.base_weights_digest != stated.base_weights_digest
    ):
        raise HubError(
            f"{stated.ref.without_revision}: its base {stated.base_model or 'model'} has other "
            "weights than those described",
            hint="its specification must be made again",
        )


def _require_share(spec: Spec, found: LoraPartial | None) -> None:
    """Raise HubError where another share of a LoRA reaches its base than the one stated."""
    stated = spec.manifest.generation.recipe.lora_partial
    if found == stated:
        return
    now, then = (
        "all of its tensors" if it is None else f"{it.applied} of its {it.tensors} tensors"
        for it in (found, stated)
    )
    raise HubError(
        f"{spec.manifest.model.ref.without_revision}: {now} reach its base here, and {then} did "
        "when it was described",
        hint="its specification must be made again",
    )


def _encoder(spec: Spec, hub: Hub, device: str) -> Encoder:
    stated = spec.manifest.encoder
    folder = hub.fetch_encoder(stated.name, stated.pretrained)
    encoder = load_encoder(stated.name, stated.pretrained, folder, device=device)
    if encoder.ref.id != stated.id:
        raise IncomparableSpecsError(
            f"the encoder {stated.name}/{stated.pretrained} that was loaded is not the one that "
            "made the specification",
            hint="its specification must be made again, with an encoder that is available",
        )
    return encoder


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
