"""The publishing stage: from a model on a hub to its specification beside it.

:func:`publish` is the whole stage in one place. Nothing is generated before everything that can
be known beforehand has been checked, and the files appear together or not at all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from gmi_registry import generation
from gmi_registry.device import DtypeName
from gmi_registry.errors import (
    GenerationError,
    InputError,
)
from gmi_registry.generation.specification import (
    Plan,
)
from gmi_registry.hubs.open import base_hints, find_base
from gmi_registry.hubs.protocol import Hub
from gmi_registry.publish_plan import (
    CHECKS,
    EncoderLoader,
    Job,
    Progress,
    PublishRequest,
    Ready,
    Stage,
    check_machine,
    planned,
    prepare,
    present_name,
)
from gmi_registry.spec import (
    ModelRef,
    Spec,
    read_spec,
    write_spec,
)

__all__ = [
    "EncoderLoader",
    "Outcome",
    "Progress",
    "Publication",
    "PublishRequest",
    "Stage",
    "publish",
]

Outcome = Literal["published", "up to date", "already proposed", "planned"]
"""``already proposed``: an open pull request of this account's has the same, and is ``where``."""


@dataclass(frozen=True)
class Publication:
    """What publishing did.

    ``spec_digest`` is None after a dry run of something new. ``images`` counts the pictures that
    this call generated, without those of an earlier, interrupted one; ``seconds`` is wall time.
    """

    ref: ModelRef
    outcome: Outcome
    spec_digest: str | None
    where: str
    images: int
    seconds: float
    plan: Plan


def publish(
    request: PublishRequest,
    hub: Hub,
    *,
    load: EncoderLoader | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Publication:
    """Describe a model of ``hub``, and put the description beside it.

    Everything that can be refused is refused before the first image: first what this machine tells,
    then what the hub tells, then what the model's configuration tells, and last what the loaded
    model tells. No weights are downloaded before the hub's part is over. ``load`` loads the encoder
    in place of the package.

    A specification of the same weights, recipe, encoder and prompts is left as it is, and so is an
    open proposal of this account's. Where only the model card has changed since, the new
    description goes out with the old embeddings, and no image is generated.

    Images that show nothing of a model are refused. On a GPU, where nobody chose a dtype, the next
    one is tried first; a batch that does not fit is halved, and one image decoded in tiles. The
    plan's warnings say so, and the recipe has what was used.
    A LoRA of which some tensors have no place in its base is refused; with ``allow_partial`` it is
    described as far as it goes, and the recipe holds the share.

    A card without a licence is a warning and no error: the format has the field for those who
    state one, hubs take models without, and a model that is not described cannot be found.

    Raises a GmiError; everything is then as it was, the kept images apart.
    """
    with base_hints(hub):
        return _publish(request, hub, load, progress)


def _publish(
    request: PublishRequest, hub: Hub, load: EncoderLoader | None, progress: Progress
) -> Publication:
    start = time.perf_counter()
    base = None if request.base is None else find_base(str(request.base), hub)
    progress("check", 0, CHECKS)
    device = check_machine(request)
    # A model that was renamed is described, and pushed to, under its present name.
    ref = present_name(request.model, hub)
    notes: list[str] = []
    if ref.id != request.model.id:
        notes.append(f"{request.model.repository} is called {ref.repository} now")
    ready = prepare(Job(request, hub, ref, base, progress, start), device, load)
    job = ready.job
    while True:
        plan = replace(ready.plan, warnings=(*notes, *ready.plan.warnings))
        if plan.proposal is not None and ready.existing is not None:
            return _publication(job, plan, "already proposed", ready.existing.digest, plan.proposal)
        if plan.up_to_date and ready.existing is not None:
            return _publication(job, plan, "up to date", ready.existing.digest, plan.target)
        if request.dry_run:
            return _publication(job, plan, "planned", None, plan.target)
        if plan.reuses_images and ready.existing is not None:
            spec = generation.redescribe(ready.existing, ready.model, previous=plan.previous)
            preview = _old_preview(ready)
            break
        try:
            spec, preview, seen = _make_spec(ready)
            plan = replace(plan, warnings=(*plan.warnings, *seen))
            break
        except GenerationError as error:
            remedy = _remedy(ready, error)
            if remedy is None:
                raise
        # Not before the error is gone, which holds on to the memory of what failed.
        notes.append(remedy.note)
        ready = _mended(ready, remedy)
    where = _write_files(job, spec, preview)
    if not request.keep_images:
        ready.cache.discard()
    images = plan.images - plan.images_kept
    return _publication(job, plan, "published", spec.digest, where, images)


def _publication(
    job: Job, plan: Plan, outcome: Outcome, digest: str | None, where: str, images: int = 0
) -> Publication:
    seconds = time.perf_counter() - job.start
    return Publication(job.ref, outcome, digest, where, images, seconds, plan)


def _make_spec(ready: Ready) -> tuple[Spec, bytes, list[str]]:
    """The specification and contact sheet of images generated now, and what was seen on them."""
    plan = ready.plan
    reading = _Follower(ready)
    seen = _generate(ready, reading)
    spec = generation.build_spec(
        ready.model,
        reading.encoding.rows(),
        ready.encoder,
        plan.prompt_sets,
        plan.recipe,
        previous=plan.previous,
    )
    return spec, reading.sheet.to_bytes(), seen


@dataclass(frozen=True)
class _Remedy:
    """What is tried where a first batch failed: another dtype, fewer images at a time, or tiles."""

    note: str
    dtype: DtypeName | None = None
    batch_size: int | None = None
    vae_tiling: bool = False


def _remedy(ready: Ready, error: GenerationError) -> _Remedy | None:
    """What may mend ``error`` without the loss of an image; None where nothing may."""
    recipe = ready.plan.recipe
    if isinstance(error, generation.OutOfMemoryError):
        size = recipe.batch_size
        if not error.nothing_kept:
            return None
        if size == 1:
            if not generation.tiling_helps(ready.loaded.pipeline, recipe):
                return None
            return _Remedy(
                "memory ran out for one image: it is decoded in tiles, which changes it slightly",
                vae_tiling=True,
            )
        return _Remedy(
            f"memory ran out for {size} images at a time: the batch size is now {size // 2}",
            batch_size=size // 2,
        )
    if isinstance(error, generation.FaultyImagesError):
        others = generation.dtypes_to_try(recipe.dtype, ready.plan.device)
        if not error.none_good or ready.overrides.dtype is not None or not others:
            return None
        return _Remedy(
            f"in {recipe.dtype} {error.message}; {others[0]} is used",
            dtype=others[0],
        )
    return None


def _mended(ready: Ready, remedy: _Remedy) -> Ready:
    """The plan made again, by ``remedy``; of ``ready`` the first images are gone, and for another
    dtype the pipeline, beside which a second one might not fit."""
    checked, loaded, overrides = ready.checked, ready.loaded, ready.overrides
    ready.cache.discard()
    if remedy.dtype is not None:
        generation.release_pipeline(loaded.pipeline, checked.device)
        loaded = generation.load_model(
            checked.model,
            device=checked.device,
            dtype=remedy.dtype,
            offload=checked.job.request.offload,
            allow_partial=checked.job.request.allow_partial,
            lora_scale=overrides.lora_scale,
        )
    if remedy.batch_size is not None:
        generation.free_memory(checked.device)
        overrides = replace(overrides, batch_size=remedy.batch_size)
    again = planned(checked, loaded, overrides, vae_tiling=remedy.vae_tiling)
    changed = "vae_tiling" if remedy.vae_tiling else "batch_size"
    changed = changed if remedy.dtype is None else "dtype"
    origins = {**again.plan.origins, changed: "changed, since the first try failed"}
    return replace(again, plan=replace(again.plan, origins=origins))


class _Follower:
    """Follows the generation: the embeddings of all pictures, and the sheet that shows them."""

    def __init__(self, ready: Ready) -> None:
        plan = ready.plan
        self.encoding = generation.Encoding(
            ready.encoder,
            plan.images,
            progress=lambda done, total: ready.job.progress("encode", done, total),
        )
        self.sheet = generation.ContactSheet([len(block) for block in plan.prompt_sets])
        self._seeds = len(plan.recipe.seeds)
        self._taken = 0

    def prepare(self, images: Sequence[Image.Image]) -> None:
        self.encoding.prepare(images)
        for image in images:
            if self._taken % self._seeds == 0:
                self.sheet.place(image)
            self._taken += 1

    def advance(self) -> None:
        self.encoding.advance()


def _generate(ready: Ready, reading: _Follower) -> list[str]:
    """One block a prompt set, so that a developer's own prompts leave the default batches alone.

    The images of all blocks are judged together; returns notes on those that were let pass.
    """
    plan, before = ready.plan, 0
    checks = generation.ImageChecks(plan.recipe.vae_dtype or plan.recipe.dtype)
    for prompt_set in plan.prompt_sets:

        def told(done: int, _: int, before: int = before) -> None:
            ready.job.progress("generate", before + done, plan.images)

        images = generation.generate(
            ready.loaded.pipeline,
            prompt_set.prompts,
            plan.recipe,
            cache=ready.cache,
            consumer=reading,
            checks=checks,
            progress=told,
        )
        before += len(images)
    return checks.finish()


def _old_preview(ready: Ready) -> bytes | None:
    """The contact sheet that stays; None for an output folder, where it lies already."""
    if ready.preview is not None:
        return ready.preview.read_bytes()
    job = ready.job
    if job.request.output is not None:
        return None
    path = job.spec_store.fetch_preview(ready.checked.place)
    return None if path is None else path.read_bytes()


def _write_files(job: Job, spec: Spec, preview: bytes | None) -> str:
    """Write the files aside, read them back as a stranger would, then put them in place."""
    job.progress("write", 0, 2)
    _make(job.request.work)
    with tempfile.TemporaryDirectory(prefix=".gmi-spec-", dir=job.request.work) as scratch:
        folder = write_spec(spec, scratch, preview=preview)
        if read_spec(scratch, expected=job.ref) != spec:
            raise GenerationError(
                f"{folder}: the files read back are not those that were written",
                hint="check the disk, then run the same command again",
            )
        job.progress("write", 1, 2)
        if job.request.output is None:
            where = job.spec_store.push_spec(job.ref, folder, **job.proposal)
        else:
            _make(job.request.output.parent)
            where = str(write_spec(spec, job.request.output, preview=preview))
    job.progress("write", 2, 2)
    return where


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made: {error.strerror or error}",
            hint="choose a place that you can write to",
        ) from error
