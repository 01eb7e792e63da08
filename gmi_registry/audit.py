"""Whether a specification is true: some of its images are generated again and compared."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

from gmi_registry import generation
from gmi_registry.device import require_device, require_dtype
from gmi_registry.encoders import Encoder, check_encoder, load_encoder
from gmi_registry.errors import HubError, IncomparableSpecsError, InputError
from gmi_registry.generation import BatchCache
from gmi_registry.generation.specification import require_room, require_writable
from gmi_registry.hubs.protocol import Hub, ModelOutline
from gmi_registry.hubs.registry.review import ImageComparison, compare_images
from gmi_registry.hubs.selection import main_file
from gmi_registry.model import ModelFiles
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
