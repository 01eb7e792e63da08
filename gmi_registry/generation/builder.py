"""From a model's pictures to its specification."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from gmi_registry.errors import InputError
from gmi_registry.generation.encoding import Towers
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import first_fault
from gmi_registry.spec import (
    DescribedModel,
    EncoderRef,
    GenerationRecipe,
    PromptSet,
    Spec,
    WeightFile,
)
from gmi_registry.spec import build_spec as assemble

__all__ = ["base_name", "build_spec", "describe", "draft_spec", "image_prompts", "redescribe"]

_MAX_TAGS, _MAX_TAG = 200, 200
_WEB = re.compile(r"https?://[!-~]+")


def build_spec(
    model: ModelFiles,
    image_embeddings: NDArray[np.float32],
    encoder: Towers,
    prompt_sets: Sequence[PromptSet],
    recipe: GenerationRecipe,
    *,
    previous: str | None = None,
) -> Spec:
    """Encode P prompts (the paper's Eq. 6) and put the specification together.

    ``image_embeddings`` [N, D] are the rows of an :class:`Encoding` with ``encoder`` and stand in
    the order of ``prompt_sets``, prompt by prompt, seed by seed. Embeddings are raw and rounded to
    float16. ``previous`` is the digest of the specification that this one replaces. Raises
    SpecFormatError for embeddings that no specification may hold, InputError for a card that it
    cannot.
    """
    prompts = list(chain.from_iterable(prompt_set.prompts for prompt_set in prompt_sets))
    return assemble(
        model=describe(model),
        encoder=encoder.ref,
        prompt_sets=prompt_sets,
        recipe=recipe,
        image_embeddings=image_embeddings,
        prompt_embeddings=encoder.encode_texts(prompts),
        image_prompt=image_prompts(prompt_sets, recipe),
        previous=previous,
    )


def draft_spec(
    model: ModelFiles,
    encoder: EncoderRef,
    prompt_sets: Sequence[PromptSet],
    recipe: GenerationRecipe,
    *,
    previous: str | None = None,
) -> Spec:
    """The specification with made-up embeddings: as large as the real one, known beforehand.

    Raises what :func:`build_spec` would raise for a card, prompts or a number of pictures that
    the format has no room for.
    """
    rows = image_prompts(prompt_sets, recipe)
    prompts = sum(map(len, prompt_sets))
    return assemble(
        model=describe(model),
        encoder=encoder,
        prompt_sets=prompt_sets,
        recipe=recipe,
        image_embeddings=np.full((len(rows), encoder.image_dim), encoder.image_dim**-0.5),
        prompt_embeddings=np.full((prompts, encoder.text_dim), encoder.text_dim**-0.5),
        image_prompt=rows,
        previous=previous,
    )


def redescribe(existing: Spec, model: ModelFiles, *, previous: str | None = None) -> Spec:
    """``existing`` with what the model card says now; embeddings and recipe stay."""
    manifest = existing.manifest
    return assemble(
        model=describe(model),
        encoder=manifest.encoder,
        prompt_sets=[block.prompt_set for block in manifest.prompt_sets],
        recipe=manifest.generation.recipe,
        image_embeddings=existing.image_embeddings,
        prompt_embeddings=existing.prompt_embeddings,
        image_prompt=existing.image_prompt,
        gamma=manifest.kernel.gamma,
        previous=previous,
    )


def image_prompts(prompt_sets: Sequence[PromptSet], recipe: GenerationRecipe) -> NDArray[np.int32]:
    """[N]: which of the P prompts (all sets, one after the other) each picture answers."""
    prompts = sum(map(len, prompt_sets))
    return np.repeat(np.arange(prompts, dtype=np.int32), len(recipe.seeds))


def describe(model: ModelFiles) -> DescribedModel:
    """The manifest's description of a model.

    Of the base only its own files are listed, not those of a model that it was made from in turn.
    It goes by the name under which the hub gave it, whatever the card calls it.
    Left out are tags that appear twice or are too long, and an address that is not on the web.
    Raises InputError for a card that breaks the format's rules, such as an overlong title, and for
    more than 200 weight files of the model or its base.
    """
    card = model.card
    tags = dict.fromkeys(tag for tag in card.tags if 0 < len(tag) <= _MAX_TAG)
    try:
        return DescribedModel(
            hub=model.ref.hub,
            id=model.ref.id,
            revision=model.ref.revision,
            title=card.title,
            url=model.url if model.url is not None and _WEB.fullmatch(model.url) else None,
            kind=model.kind,
            base_model=base_name(model),
            base_origin=_base_origin(model),
            base_revision=model.base_revision if _base_origin(model) == "option" else None,
            weights=_by_path(model.weights),
            base_weights=_base_weights(model),
            tags=tuple(tags)[:_MAX_TAGS],
            licence=card.licence,
            nsfw=card.nsfw,
            downloads=card.downloads,
        )
    except ValidationError as error:
        fault = first_fault(error)
        of_files = fault.startswith(("weights", "base_weights"))
        raise InputError(
            f"{model.ref}: its {'weight files' if of_files else 'model card'} cannot be described: "
            f"{fault}",
            hint="name 1 to 200 weight files, each once" if of_files else "correct the model card",
        ) from error


def base_name(model: ModelFiles) -> str | None:
    """What the base is called that was used; what the card says where none was, or where it is of
    another hub than the model, whose words for bases are its own."""
    base = model.base
    if base is None or model.kind == "checkpoint":
        return model.card.base_model
    named = base.ref.hub == model.ref.hub or model.base_origin == "option"
    return base.ref.id if named else model.card.base_model


def _base_origin(model: ModelFiles) -> Literal["option", "metadata", "architecture"] | None:
    """Who named the base, for the manifest: absent where the card or the hub did."""
    if model.base is None or model.kind == "checkpoint" or model.base_origin == "card":
        return None
    # Of another hub's base the hub's own word is recorded, which stays the same.
    if model.base_origin != "option" and model.base.ref.hub != model.ref.hub:
        return None
    return model.base_origin


def _base_weights(model: ModelFiles) -> tuple[WeightFile, ...] | None:
    if model.kind == "checkpoint" or model.base is None:
        return None
    # A hub may deliver a single file's base as configuration alone: then no weights of it are used.
    return _by_path(model.base.weights) or None


def _by_path(weights: Sequence[WeightFile]) -> tuple[WeightFile, ...]:
    return tuple(sorted(weights, key=lambda weight: weight.path))
