"""The submitting stage: from a model on a hub to its specification beside it.

:func:`publish` is the whole stage in one place. Nothing is generated before everything that can
be known beforehand has been checked, and the files appear together or not at all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from gmi_registry import generation
from gmi_registry.encoders import DEFAULT_ENCODER, Encoder, EncoderName, load_encoder
from gmi_registry.errors import GenerationError, InputError, SpecFormatError, SpecNotFoundError
from gmi_registry.generation import Journal, RecipeOverrides
from gmi_registry.generation.advice import advised
from gmi_registry.generation.plan import (
    Plan,
    PlannedFile,
    make_plan,
    require_room,
    require_writable,
)
from gmi_registry.hubs.protocol import Hub, SpecStore, knows_names
from gmi_registry.model import ModelFiles
from gmi_registry.place import read_former
from gmi_registry.publication import Order, Progress, Publication, Stage
from gmi_registry.spec import (
    SPEC_DIR,
    ModelRef,
    PromptSet,
    Spec,
    read_spec,
    write_spec,
)

__all__ = ["Plan", "PlannedFile", "Progress", "Publication", "Stage", "publish"]

_CHECKS = 5


@dataclass(frozen=True)
class _Ready:
    """What the checks leave behind for the work; ``existing`` lies at the target now."""

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
    create_pr: bool | None = None,
    store: SpecStore | None = None,
    device: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Publication:
    """Describe the model that ``hub`` holds under ``ref``, and put the description beside it.

    ``prompts`` is the developer's own block, which follows the default set. With ``output`` the
    files go to ``output``/gmi and the hub is left alone; with ``create_pr`` they are proposed to
    the model's owner, who decides (None: as is usual there). With ``store`` they go there and not
    beside the model. ``work`` keeps the pictures of an
    interrupted call, which the same call then goes on from; they are removed once the files are
    in place, unless ``keep_images``. ``dry_run`` checks and plans, and writes nothing.
    ``encoder`` is by default the one that the model card names, else the package's.

    A specification of the same weights, recipe, encoder and prompts is left as it is. Where only
    the model card has changed since, the new description goes out with the old embeddings, and
    nothing is drawn. ``force`` draws all the same.

    A card without a licence is a warning and no error: the format has the field for those who
    state one, hubs take models without, and a model that is not described cannot be found.

    Raises a GmiError; everything is then as it was, the journal apart.
    """
    start = time.perf_counter()
    asked, names = ref, knows_names(hub)
    if names is not None:
        # A model that was renamed is described, and pushed to, under its present name.
        ref = names.current(ref)
    # Said only where it is wanted: a hub of somebody else's may know nothing of proposals.
    proposal = {} if create_pr is None else {"create_pr": create_pr}
    order = Order(ref, hub, work, output, device, force, proposal, progress, store)
    ready = _check(order, encoder, prompts, overrides or RecipeOverrides())
    plan = ready.plan
    if asked.id != ref.id:
        told = f"{asked.repository} is called {ref.repository} now"
        plan = replace(plan, warnings=(told, *plan.warnings))
    if plan.up_to_date and ready.existing is not None:
        digest = ready.existing.digest
        return Publication(ref, "up to date", digest, plan.target, 0, _since(start), plan)
    if dry_run:
        return Publication(ref, "planned", None, plan.target, 0, _since(start), plan)

    if plan.reuses_images and ready.existing is not None:
        spec = generation.redescribe(ready.existing, ready.model, previous=plan.previous)
        preview = _old_preview(order)
    else:
        reading = _Reading(ready, progress)
        _generate(ready, reading, progress)
        spec = generation.build_spec(
            ready.model,
            reading.encoding.rows(),
            ready.encoder,
            plan.prompt_sets,
            plan.recipe,
            previous=plan.previous,
        )
        preview = reading.sheet.to_bytes()
    where = _put(order, spec, preview)
    if not keep_images:
        ready.journal.discard()
    drawn = plan.images - plan.images_kept
    return Publication(ref, "published", spec.digest, where, drawn, _since(start), plan)


def _check(
    order: Order, encoder: Encoder | None, prompts: PromptSet | None, overrides: RecipeOverrides
) -> _Ready:
    """Everything that can fail without a picture, the quick checks first."""
    ref, hub, progress = order.ref, order.hub, order.progress
    progress("check", 0, _CHECKS)
    if order.output is None:
        order.shelf.check_writable(ref, **order.proposal)
    elif order.proposal.get("create_pr") or order.store is not None:
        raise InputError(
            f"{order.output} is a folder of yours, to which nothing can be proposed",
            hint="leave out --output, or --create-pr and --to",
        )
    else:
        require_writable(order.output)
    require_writable(order.work)
    progress("check", 1, _CHECKS)
    model = hub.fetch_model(ref)
    default = generation.default_prompt_set(model)
    prompt_sets = (default,) if prompts is None else (default, prompts)
    generation.describe(model)
    progress("check", 2, _CHECKS)
    encoder = _encoder_of(model, hub, order.device) if encoder is None else encoder
    progress("check", 3, _CHECKS)
    pipeline = generation.load_pipeline(model, device=order.device, dtype=overrides.dtype)
    progress("check", 4, _CHECKS)
    recipe = generation.default_recipe(pipeline, model, overrides)
    generation.check_prompts(pipeline, prompt_sets, recipe)
    published = _published(ref, order.shelf, model, hub)
    existing = published
    if order.output is not None:
        existing = _read_folder(order.output, ref, model, hub)
    previous = published.digest if published is not None else None
    draft = generation.draft_spec(model, encoder.ref, prompt_sets, recipe, previous=previous)
    journal = Journal(order.work, model, recipe)
    plan = make_plan(
        model,
        draft,
        kept=sum(generation.images_kept(journal, block.prompts, recipe) for block in prompt_sets),
        existing=None if order.force else existing,
        target=_target(order, model),
    )
    if not plan.up_to_date:
        require_room(order.work, plan.scratch)
    progress("check", _CHECKS, _CHECKS)
    return _Ready(model, pipeline, encoder, journal, existing, plan)


def _encoder_of(model: ModelFiles, hub: Hub, device: str | None) -> Encoder:
    """The encoder that the card names (or its base model's card), else the package's own."""
    named = advised(model, "encoder")
    name, pretrained = DEFAULT_ENCODER if named is None else EncoderName.parse(named)
    folder = hub.fetch_encoder(name, pretrained)
    return load_encoder(name, pretrained, folder, device=device or generation.default_device())


def _target(order: Order, model: ModelFiles) -> str:
    if order.output is not None:
        return str(order.output / SPEC_DIR)
    beside = model.url or str(order.ref)
    return beside if order.store is None else f"the registry, for {beside}"


def _published(
    ref: ModelRef,
    shelf: Hub | SpecStore,
    model: ModelFiles | None = None,
    hub: Hub | None = None,
) -> Spec | None:
    """The specification that ``shelf`` has now for ``ref``; a broken one counts as none.

    One under a former name is the model's where it describes the weights of ``model``, or ``hub``
    says that the name is a former one.

    One of a newer format version raises UnsupportedVersionError: an old program must not replace
    what it cannot read.
    """
    try:
        folder = shelf.fetch_spec(ref)
    except SpecNotFoundError:
        return None
    return _read_folder(folder.parent if folder.name == SPEC_DIR else folder, ref, model, hub)


def _read_folder(
    folder: Path, ref: ModelRef, model: ModelFiles | None, hub: Hub | None
) -> Spec | None:
    weights = {} if model is None else {it.path: it.sha256 for it in model.weights}
    try:
        # One of another file in the same repository is what the new one replaces.
        return read_spec(
            folder, expected=ref.repository, own_weights=lambda: weights, follow_links=True
        )
    except SpecNotFoundError:
        return None
    except SpecFormatError:
        return read_former(hub, folder, ref)


class _Reading:
    """A follower of the drawing: the embeddings of all pictures, and the sheet that shows them."""

    def __init__(self, ready: _Ready, progress: Progress) -> None:
        plan = ready.plan
        self.encoding = generation.Encoding(
            ready.encoder,
            plan.images,
            progress=lambda done, total: progress("encode", done, total),
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


def _generate(ready: _Ready, reading: _Reading, progress: Progress) -> None:
    """One block a prompt set, so that a developer's own prompts leave the default batches alone."""
    plan, before = ready.plan, 0
    for prompt_set in plan.prompt_sets:

        def told(done: int, _: int, before: int = before) -> None:
            progress("generate", before + done, plan.images)

        images = generation.generate(
            ready.pipeline,
            prompt_set.prompts,
            plan.recipe,
            journal=ready.journal,
            follower=reading,
            progress=told,
        )
        before += len(images)


def _old_preview(order: Order) -> bytes | None:
    """The contact sheet that stays; None for an output folder, where it lies already."""
    path = order.shelf.fetch_preview(order.ref) if order.output is None else None
    return None if path is None else path.read_bytes()


def _put(order: Order, spec: Spec, preview: bytes | None) -> str:
    """Write the files aside, read them back as a stranger would, then put them in place."""
    order.progress("write", 0, 2)
    _make(order.work)
    with tempfile.TemporaryDirectory(prefix=".gmi-spec-", dir=order.work) as scratch:
        folder = write_spec(spec, scratch, preview=preview)
        if read_spec(scratch, expected=order.ref) != spec:
            raise GenerationError(
                f"{folder}: the files read back are not those that were written",
                hint="check the disk, then run the same command again",
            )
        order.progress("write", 1, 2)
        if order.output is None:
            where = order.shelf.push_spec(order.ref, folder, **order.proposal)
        else:
            _make(order.output.parent)
            where = str(write_spec(spec, order.output, preview=preview))
    order.progress("write", 2, 2)
    return where


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made: {error.strerror or error}",
            hint="choose a place that you may write to",
        ) from error


def _since(start: float) -> float:
    return time.perf_counter() - start
