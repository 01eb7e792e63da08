"""The submitting stage: from a model on a hub to its specification beside it.

:func:`publish` is the whole stage in one place. Nothing is generated before everything that can
be known beforehand has been checked, and the files appear together or not at all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gmi_registry import generation
from gmi_registry.encoders import DEFAULT_ENCODER, Encoder, EncoderName, load_encoder
from gmi_registry.errors import GenerationError, SpecFormatError, SpecNotFoundError
from gmi_registry.generation import GeneratedImages, Journal, RecipeOverrides
from gmi_registry.generation.advice import advised
from gmi_registry.generation.plan import (
    Plan,
    PlannedFile,
    make_plan,
    require_room,
    require_writable,
)
from gmi_registry.hubs.protocol import Hub
from gmi_registry.model import ModelFiles
from gmi_registry.spec import (
    SPEC_DIR,
    ModelRef,
    PromptSet,
    Spec,
    read_spec,
    write_spec,
)

__all__ = ["Plan", "PlannedFile", "Progress", "Publication", "Stage", "publish"]

Stage = Literal["check", "generate", "encode", "write"]
Progress = Callable[[Stage, int, int], None]
"""Told (stage, done, total): steps in ``check`` and ``write``, pictures in the other two."""

Outcome = Literal["published", "up to date", "planned"]

_CHECKS = 5


@dataclass(frozen=True)
class Publication:
    """What publishing did.

    ``spec_digest`` is None after a dry run of something new. ``images`` counts the pictures that
    this call drew, without those of an earlier, interrupted one; ``seconds`` is wall time.
    """

    ref: ModelRef
    outcome: Outcome
    spec_digest: str | None
    where: str
    images: int
    seconds: float
    plan: Plan


@dataclass(frozen=True)
class _Ready:
    """What the checks leave behind for the work."""

    model: ModelFiles
    pipeline: generation.Pipeline
    encoder: Encoder
    journal: Journal
    existing: Spec | None
    plan: Plan


def publish(
    ref: ModelRef,
    hub: Hub,
    *,
    work: Path,
    encoder: Encoder | None = None,
    prompts: PromptSet | None = None,
    overrides: RecipeOverrides | None = None,
    output: Path | None = None,
    dry_run: bool = False,
    force: bool = False,
    keep_images: bool = False,
    device: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Publication:
    """Describe the model that ``hub`` holds under ``ref``, and put the description beside it.

    ``prompts`` is the developer's own block, which follows the default set. With ``output`` the
    files go to ``output``/gmi and the hub is left alone. ``work`` keeps the pictures of an
    interrupted call, which the same call then goes on from; they are removed once the files are
    in place, unless ``keep_images``. ``dry_run`` checks and plans, and writes nothing. A
    specification of the same weights, recipe, encoder and prompts is left as it is, unless
    ``force``. ``encoder`` is by default the one that the model card names, else the package's.

    A card without a licence is a warning and no error: the format has the field for those who
    state one, hubs take models without, and a model that is not described cannot be found.

    Raises a GmiError; everything is then as it was, the journal apart.
    """
    start = time.perf_counter()
    ready = _check(ref, hub, work, encoder, prompts, overrides, output, device, progress)
    plan = ready.plan
    if plan.up_to_date and not force:
        digest = ready.existing.digest if ready.existing else None
        return Publication(ref, "up to date", digest, plan.target, 0, _since(start), plan)
    if dry_run:
        return Publication(ref, "planned", None, plan.target, 0, _since(start), plan)

    blocks = _generate(ready, progress)
    spec = generation.build_spec(
        ready.model,
        _joined(blocks),
        ready.encoder,
        plan.prompt_sets,
        plan.recipe,
        previous=plan.previous,
        progress=lambda done, total: progress("encode", done, total),
    )
    where = _put(spec, blocks, ref, hub, work, output, progress)
    if not keep_images:
        ready.journal.discard()
    drawn = plan.images - plan.images_kept
    return Publication(ref, "published", spec.digest, where, drawn, _since(start), plan)


def _check(
    ref: ModelRef,
    hub: Hub,
    work: Path,
    encoder: Encoder | None,
    prompts: PromptSet | None,
    overrides: RecipeOverrides | None,
    output: Path | None,
    device: str | None,
    progress: Progress,
) -> _Ready:
    """Everything that can fail without a picture, the quick checks first."""
    progress("check", 0, _CHECKS)
    if output is None:
        hub.check_writable(ref)
    else:
        require_writable(output)
    require_writable(work)
    progress("check", 1, _CHECKS)
    model = hub.fetch_model(ref)
    default = generation.default_prompt_set(model)
    prompt_sets = (default,) if prompts is None else (default, prompts)
    generation.describe(model)
    progress("check", 2, _CHECKS)
    encoder = _encoder_of(model, hub, device) if encoder is None else encoder
    progress("check", 3, _CHECKS)
    pipeline = generation.load_pipeline(model, device=device)
    progress("check", 4, _CHECKS)
    recipe = generation.default_recipe(pipeline, model, overrides or RecipeOverrides())
    generation.check_prompts(pipeline, prompt_sets, recipe)
    published = _published(ref, hub)
    existing = published if output is None else _read_folder(output, ref)
    draft = generation.draft_spec(
        model,
        encoder.ref,
        prompt_sets,
        recipe,
        previous=published.digest if published is not None else None,
    )
    journal = Journal(work, model, recipe)
    plan = make_plan(
        model,
        draft,
        kept=sum(generation.images_kept(journal, block.prompts, recipe) for block in prompt_sets),
        existing=existing,
        target=str(ref if output is None else output / SPEC_DIR),
    )
    if not plan.up_to_date:
        require_room(work, plan.scratch)
    progress("check", _CHECKS, _CHECKS)
    return _Ready(model, pipeline, encoder, journal, existing, plan)


def _encoder_of(model: ModelFiles, hub: Hub, device: str | None) -> Encoder:
    """The encoder that the card names (or its base model's card), else the package's own."""
    named = advised(model, "encoder")
    name, pretrained = DEFAULT_ENCODER if named is None else EncoderName.parse(named)
    folder = hub.fetch_encoder(name, pretrained)
    return load_encoder(name, pretrained, folder, device=device or generation.default_device())


def _published(ref: ModelRef, hub: Hub) -> Spec | None:
    """The specification that the hub has now; a broken one counts as none.

    One of a newer format version raises UnsupportedVersionError: an old program must not replace
    what it cannot read.
    """
    try:
        folder = hub.fetch_spec(ref)
    except SpecNotFoundError:
        return None
    return _read_folder(folder.parent if folder.name == SPEC_DIR else folder, ref)


def _read_folder(folder: Path, ref: ModelRef) -> Spec | None:
    try:
        return read_spec(folder, expected=ref, follow_links=True)
    except (SpecNotFoundError, SpecFormatError):
        return None


def _generate(ready: _Ready, progress: Progress) -> list[GeneratedImages]:
    """One block a prompt set, so that a developer's own prompts leave the default batches alone."""
    blocks: list[GeneratedImages] = []
    total, before = ready.plan.images, 0
    for prompt_set in ready.plan.prompt_sets:

        def told(done: int, _: int, before: int = before) -> None:
            progress("generate", before + done, total)

        blocks.append(
            generation.generate(
                ready.pipeline,
                prompt_set.prompts,
                ready.plan.recipe,
                journal=ready.journal,
                progress=told,
            )
        )
        before += len(blocks[-1])
    return blocks


def _joined(blocks: list[GeneratedImages]) -> GeneratedImages:
    return GeneratedImages([path for block in blocks for path in block.paths])


def _put(
    spec: Spec,
    blocks: list[GeneratedImages],
    ref: ModelRef,
    hub: Hub,
    work: Path,
    output: Path | None,
    progress: Progress,
) -> str:
    """Write the files aside, read them back as a stranger would, then put them in place."""
    progress("write", 0, 3)
    seeds = len(spec.manifest.generation.recipe.seeds)
    preview = generation.contact_sheet([block[::seeds] for block in blocks])
    progress("write", 1, 3)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = write_spec(spec, output, preview=preview)
        _check_written(output, spec)
        progress("write", 3, 3)
        return str(folder)
    with tempfile.TemporaryDirectory(prefix=".gmi-spec-", dir=work) as scratch:
        folder = write_spec(spec, scratch, preview=preview)
        _check_written(Path(scratch), spec)
        progress("write", 2, 3)
        where = hub.push_spec(ref, folder)
    progress("write", 3, 3)
    return where


def _check_written(directory: Path, spec: Spec) -> None:
    if read_spec(directory, expected=spec.manifest.model.ref) != spec:
        raise GenerationError(
            f"{directory}: the files read back are not those that were written",
            hint="check the disk, then run the same command again",
        )


def _since(start: float) -> float:
    return time.perf_counter() - start
