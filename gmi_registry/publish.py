"""The publishing stage: from a model on a hub to its specification beside it.

:func:`publish` is the whole stage in one place. Nothing is generated before everything that can
be known beforehand has been checked, and the files appear together or not at all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from gmi_registry import generation
from gmi_registry.device import DtypeName, require_device, require_dtype
from gmi_registry.encoders import (
    DEFAULT_ENCODER,
    Encoder,
    EncoderName,
    check_encoder,
    load_encoder,
)
from gmi_registry.errors import (
    AuthError,
    GenerationError,
    HubError,
    InputError,
    SpecFormatError,
    SpecNotFoundError,
)
from gmi_registry.generation import BatchCache, RecipeOverrides
from gmi_registry.generation.placement import Offload
from gmi_registry.generation.recommended_settings import recommended
from gmi_registry.generation.specification import (
    Plan,
    PlannedDownload,
    has_same_images,
    is_same,
    make_plan,
    require_room,
    require_spec_place,
    require_writable,
)
from gmi_registry.hubs.open import find_base, read_former
from gmi_registry.hubs.protocol import Destination, Hub, ModelOutline, SpecStore, knows_names
from gmi_registry.model import ModelFiles
from gmi_registry.spec import (
    PREVIEW_NAME,
    SPEC_DIR,
    GenerationRecipe,
    ModelRef,
    PromptSet,
    Spec,
    read_spec,
    write_spec,
)
from gmi_registry.spec.manifest import ROWS_LIMIT

Stage = Literal["check", "generate", "encode", "write"]
Progress = Callable[[Stage, int, int], None]
"""Told (stage, done, total): steps in ``check`` and ``write``, pictures in the other two.

Those two go on side by side.
"""

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


@dataclass(frozen=True)
class PublishRequest:
    """All options of a publication.

    ``model`` is what is described. ``prompts`` is the developer's own block, which follows the
    default set; ``overrides`` change the recipe. ``base`` is the model that this one was made from,
    whatever the model card says; it is recorded. ``encoder`` is by default the one that the model
    card names, else the package's.

    With ``output`` the files go to ``output``/gmi and the hub is left alone; with ``create_pr``
    they are proposed to the model's owner, who decides (None: as is usual there); with ``store``
    they go there and not beside the model. ``work`` keeps the pictures of an interrupted call, from
    which the same call then continues; they are removed once the files are in place, unless
    ``keep_images``. ``dry_run`` makes the same checks, plans, and writes nothing. ``force``
    publishes also where the same is published already. ``allow_partial`` lets a LoRA pass of which
    some tensors have no place in its base. ``offload`` keeps weights off a GPU that is too small
    for them, as in :func:`~gmi_registry.generation.load_model`.

    Raises InputError for options that contradict each other or that no model can have.
    """

    model: ModelRef
    _: KW_ONLY
    work: Path
    prompts: PromptSet | None = None
    overrides: RecipeOverrides = RecipeOverrides()  # noqa: RUF009, it is frozen
    base: str | ModelRef | None = None
    encoder: Encoder | None = None
    output: Path | None = None
    create_pr: bool | None = None
    store: SpecStore | None = None
    dry_run: bool = False
    force: bool = False
    allow_partial: bool = False
    keep_images: bool = False
    device: str | None = None
    offload: Offload | None = None

    def __post_init__(self) -> None:
        if self.output is not None and (self.create_pr or self.store is not None):
            raise InputError(
                f"{self.output} is your own folder, to which nothing can be proposed",
                hint="leave out --output, or --create-pr and --to",
            )
        generation.check_overrides(self.overrides)


@dataclass(frozen=True)
class _Job:
    """A request whose names are resolved: the model's present name, its file and its base."""

    request: PublishRequest
    hub: Hub
    ref: ModelRef
    base: ModelRef | None
    progress: Progress
    start: float

    @property
    def base_options(self) -> dict[str, ModelRef]:
        """What the hub is told of the base: nothing where none was named, as a hub of somebody
        else's may know nothing of it."""
        return {} if self.base is None else {"base": self.base}

    @property
    def proposal(self) -> dict[str, bool]:
        """What is said of a pull request: nothing where the user does not choose, likewise."""
        chosen = self.request.create_pr
        return {} if chosen is None else {"create_pr": chosen}

    @property
    def spec_store(self) -> Hub | SpecStore:
        """What holds the specification: the hub itself, beside the model, or a store."""
        return self.hub if self.request.store is None else self.request.store


_CHECKS = 6

EncoderLoader = Callable[[EncoderName, Path | None, str], Encoder]
"""Told the encoder's name, the folder where a hub has it, and the device."""


@dataclass(frozen=True)
class _Ready:
    """What the checks leave behind for the work.

    ``existing`` lies at the place now, or in a proposal of this account's; ``preview`` is the
    contact sheet that is beside it there, where that is a proposal. ``overrides`` are those by
    which the recipe was made, and ``job`` names the model's file in full where a pattern was
    given.
    """

    checked: _Checked
    loaded: generation.LoadedModel
    overrides: RecipeOverrides
    cache: BatchCache
    existing: Spec | None
    preview: Path | None
    plan: Plan

    @property
    def job(self) -> _Job:
        return self.checked.job

    @property
    def model(self) -> ModelFiles:
        return self.checked.model

    @property
    def encoder(self) -> Encoder:
        return self.checked.encoder


@dataclass(frozen=True)
class _Checked:
    """What is known before the model is loaded, and holds for whatever recipe it gets.

    ``published`` is the specification at ``place``, which the new one names as its ``previous``.
    """

    job: _Job
    device: str
    found: _ModelFacts
    model: ModelFiles
    encoder: Encoder
    destination: Destination | None
    place: ModelRef
    published: Spec | None
    existing: Spec | None
    downloads: tuple[PlannedDownload, ...]


@dataclass(frozen=True)
class _ModelFacts:
    """A model with what its cards say of the work: on this disk, or else as its hub outlines it."""

    outline: ModelFiles | ModelOutline
    prompt_sets: tuple[PromptSet, ...]
    encoder: EncoderName

    @property
    def weights(self) -> Mapping[str, str | None]:
        """The digests of the model's weight files by their paths; None where none is known."""
        if isinstance(self.outline, ModelOutline):
            return self.outline.weights
        return {weight.path: weight.sha256 for weight in self.outline.weights}

    @property
    def missing(self) -> int:
        """Bytes that are not on this disk yet."""
        return self.outline.missing_in_all if isinstance(self.outline, ModelOutline) else 0


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
    start = time.perf_counter()
    base = None if request.base is None else find_base(str(request.base), hub)
    progress("check", 0, _CHECKS)
    device = _check_machine(request)
    # A model that was renamed is described, and pushed to, under its present name.
    ref = _present_name(request.model, hub)
    notes: list[str] = []
    if ref.id != request.model.id:
        notes.append(f"{request.model.repository} is called {ref.repository} now")
    ready = _prepare(_Job(request, hub, ref, base, progress, start), device, load)
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
    job: _Job, plan: Plan, outcome: Outcome, digest: str | None, where: str, images: int = 0
) -> Publication:
    seconds = time.perf_counter() - job.start
    return Publication(job.ref, outcome, digest, where, images, seconds, plan)


def _make_spec(ready: _Ready) -> tuple[Spec, bytes, list[str]]:
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


def _prepare(job: _Job, device: str, load: EncoderLoader | None) -> _Ready:
    """Everything that can be refused without an image and that this machine alone cannot tell, the
    quick checks first, downloads last; ``device`` is there.

    A dry run is this and no more, so that it finds whatever a publication would.
    """
    request, progress = job.request, job.progress
    overrides, encoder = request.overrides, request.encoder
    progress("check", 1, _CHECKS)
    destination = _check_destination(job)
    place = _place(job, destination)
    progress("check", 2, _CHECKS)
    found = _find(job, destination)
    if job.ref.is_pattern:
        job = replace(job, ref=replace(job.ref, file=found.outline.ref.file))
        place = _place(job, destination)
    generation.check_recommended(found.outline, found.outline.kind, overrides)
    if job.request.allow_partial and found.outline.kind not in (None, "lora"):
        raise InputError(
            f"--allow-partial is for LoRAs, and {job.ref} is none",
            hint="leave out --allow-partial",
        )
    published = _published(place, job.spec_store, found.weights, job.hub)
    existing = published
    if job.request.output is not None:
        existing = _read_folder(job.request.output, job.ref, found.weights, job.hub)
    _require_few(found.prompt_sets, overrides)
    size = 0 if encoder is not None else _check_encoder(job.hub, found)
    downloads = _downloads(found, size)
    progress("check", 3, _CHECKS)
    model = _fetch(job, found)
    generation.describe(model)
    progress("check", 4, _CHECKS)
    if encoder is None:
        folder = job.hub.fetch_encoder(*found.encoder)
        encoder = (load or _load)(found.encoder, folder, device)
    progress("check", 5, _CHECKS)
    checked = _Checked(
        job, device, found, model, encoder, destination, place, published, existing, downloads
    )
    loaded = generation.load_model(
        model,
        device=device,
        dtype=overrides.dtype,
        offload=job.request.offload,
        allow_partial=job.request.allow_partial,
        lora_scale=overrides.lora_scale,
    )
    ready = _planned(checked, loaded, overrides)
    progress("check", _CHECKS, _CHECKS)
    return ready


def _planned(
    checked: _Checked,
    loaded: generation.LoadedModel,
    overrides: RecipeOverrides,
    *,
    vae_tiling: bool = False,
) -> _Ready:
    """The plan for a loaded model, once there is room for what it would write."""
    job, model, found = checked.job, checked.model, checked.found
    recipe, origins, notes = _recipe(loaded, model, overrides, found.prompt_sets)
    if recipe.lora_partial is not None:
        origins = {**origins, "lora_partial": "the others have no place in its base"}
    if vae_tiling:
        recipe = recipe.model_copy(update={"vae_tiling": True})
    previous = None if checked.published is None else checked.published.digest
    draft = generation.draft_spec(
        model, checked.encoder.ref, found.prompt_sets, recipe, previous=previous
    )
    cache = BatchCache(job.request.work, model, recipe)
    existing = None if job.request.force else checked.existing
    address, proposed, preview = None, None, None
    if existing is None or not has_same_images(existing, draft):
        address, proposed, preview = _own_proposal(job, draft, checked.destination)
    plan = make_plan(
        model,
        draft,
        kept=sum(
            generation.images_kept(cache, block.prompts, recipe) for block in found.prompt_sets
        ),
        existing=proposed or existing,
        target=_target(job, model),
    )
    pace = cache.pace()
    left = (plan.images - plan.images_kept) / recipe.batch_size
    plan = replace(
        plan,
        # What lies in a proposal is not at the target, and may be proposed again.
        up_to_date=plan.up_to_date and proposed is None,
        reuses_images=plan.reuses_images or (proposed is not None and address is None),
        proposal=address,
        warnings=(*plan.warnings, *loaded.notes, *notes),
        device=checked.device,
        origins=origins,
        downloads=checked.downloads,
        destination=_destination_words(job, checked.destination),
        seconds=None if pace is None else pace * left,
    )
    if not plan.up_to_date and address is None:
        require_room(job.request.work, plan.scratch)
        target = job.request.output or _folder(checked.destination)
        if target is not None:
            require_room(target, sum(file.size for file in plan.files))
    return _Ready(checked, loaded, overrides, cache, proposed or existing, preview, plan)


@dataclass(frozen=True)
class _Remedy:
    """What is tried where a first batch failed: another dtype, fewer images at a time, or tiles."""

    note: str
    dtype: DtypeName | None = None
    batch_size: int | None = None
    vae_tiling: bool = False


def _remedy(ready: _Ready, error: GenerationError) -> _Remedy | None:
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


def _mended(ready: _Ready, remedy: _Remedy) -> _Ready:
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
    again = _planned(checked, loaded, overrides, vae_tiling=remedy.vae_tiling)
    changed = "vae_tiling" if remedy.vae_tiling else "batch_size"
    changed = changed if remedy.dtype is None else "dtype"
    origins = {**again.plan.origins, changed: "changed, since the first try failed"}
    return replace(again, plan=replace(again.plan, origins=origins))


def _present_name(ref: ModelRef, hub: Hub) -> ModelRef:
    names = knows_names(hub)
    if names is None:
        return ref
    try:
        return names.current(ref)
    except (AuthError, SpecNotFoundError):
        # The checks that follow say what it is, if it is no model that may be described.
        return ref


def _check_machine(request: PublishRequest) -> str:
    """What this machine can tell; the device in torch's words."""
    generation.require_packages()
    generation.require_webp()
    if request.output is not None:
        require_spec_place(request.output)
    require_writable(request.work)
    device = require_device(request.device)
    if request.overrides.dtype is not None:
        require_dtype(device, request.overrides.dtype)
    generation.require_offload(device, request.offload)
    return device


def _check_destination(job: _Job) -> Destination | None:
    """Where the hub, or the store, would put the files; None where it does not say."""
    if job.request.output is not None:
        return None
    return job.spec_store.check_writable(job.ref, **job.proposal)


def _place(job: _Job, destination: Destination | None) -> ModelRef:
    """Where the specification that would be replaced is read: of a commit or a tag not there."""
    ref = job.ref
    beside = job.request.store is None and ref.hub == "hf" and ref.revision is not None
    if not beside or destination is None or destination.branch is None:
        return ref
    return ModelRef(ref.hub, ref.id, destination.branch, ref.file)


def _find(job: _Job, destination: Destination | None) -> _ModelFacts:
    """The model and its base, without weights where they are far away; what the cards advise."""
    outline = getattr(job.hub, "outline", None)
    model: ModelFiles | ModelOutline
    look = job.hub.fetch_model if outline is None else outline
    model = look(job.ref, **job.base_options)
    if isinstance(model, ModelFiles):
        generation.check_model(model)
        _require_apart(job.request.output, model)
    else:
        _check_outline(model)
        if job.request.store is None and destination is not None:
            _require_same_weights(model, destination)
    default, own = generation.default_prompt_set(model), job.request.prompts
    named = recommended(model, "encoder")
    return _ModelFacts(
        model,
        (default,) if own is None else (default, own),
        DEFAULT_ENCODER if named is None else EncoderName.parse(named),
    )


def _require_few(prompt_sets: Sequence[PromptSet], overrides: RecipeOverrides) -> None:
    prompts, seeds = sum(map(len, prompt_sets)), len(overrides.seeds or (0,))
    if prompts * seeds > ROWS_LIMIT:
        raise InputError(
            f"{prompts:,} prompts with {seeds:,} seeds are {prompts * seeds:,} images, and a "
            f"specification has at most {ROWS_LIMIT:,}",
            hint="give fewer --seeds, or a shorter file of prompts",
        )


def _check_outline(model: ModelOutline) -> None:
    if model.pipeline is not None:
        generation.require_pipeline(str(model.ref), model.pipeline)
    elif model.base is None and model.ref.hub == "hf":
        if model.base_refusal is not None:
            raise model.base_refusal
        what = "LoRA" if model.kind == "lora" else "LoRA, or a whole model in one file,"
        raise GenerationError(
            f"{model.ref}: the model card names no base model, which a {what} needs",
            hint="name it: --base REPO, or add base_model to the model card",
        )
    if model.base is not None:
        _check_outline(model.base)


def _require_same_weights(model: ModelOutline, destination: Destination) -> None:
    """Raise HubError where the branch that would get the specification has other weights."""
    there = destination.weights
    if there is None:
        return
    for path, sha256 in model.weights.items():
        same = (path in there and None in (sha256, there[path])) or there.get(path) == sha256
        if not same:
            what = "is another file" if path in there else "is not there"
            raise HubError(
                f"{model.ref}: the specification would go to {destination.branch}, where {path} "
                f"{what}",
                hint="name a branch that has these weights: --revision BRANCH; or do not write "
                "to the repository: --to registry, or --output DIR",
            )


def _require_apart(output: Path | None, model: ModelFiles) -> None:
    folder = model.path if model.path.is_dir() else model.path.parent
    if output is not None and output.resolve() == folder.resolve():
        raise InputError(
            f"{output} is the model's own folder in the hub, and --output does not change the hub",
            hint="leave out --output, or choose another folder",
        )


def _check_encoder(hub: Hub, found: _ModelFacts) -> int:
    """Bytes of the encoder that are not on this disk yet."""
    return check_encoder(
        *found.encoder,
        hub.fetch_encoder(*found.encoder),
        offline=bool(getattr(hub, "offline", False)),
        beside=found.missing,
    )


def _downloads(found: _ModelFacts, encoder: int) -> tuple[PlannedDownload, ...]:
    sizes: list[PlannedDownload] = []
    part: ModelFiles | ModelOutline | None = found.outline
    what = "model"
    while isinstance(part, ModelOutline):
        sizes.append(PlannedDownload(what, str(part.ref), part.missing))
        part, what = part.base, "base model"
    sizes.append(PlannedDownload("encoder", str(found.encoder), encoder))
    return tuple(item for item in sizes if item.size)


def _fetch(job: _Job, found: _ModelFacts) -> ModelFiles:
    if isinstance(found.outline, ModelFiles):
        return found.outline
    model = job.hub.fetch_model(found.outline.ref, **job.base_options)
    generation.check_model(model)
    return model


def _load(name: EncoderName, folder: Path | None, device: str) -> Encoder:
    return load_encoder(*name, folder, device=device)


def _recipe(
    loaded: generation.LoadedModel,
    model: ModelFiles,
    overrides: RecipeOverrides,
    prompt_sets: Sequence[PromptSet],
) -> tuple[GenerationRecipe, dict[str, str], list[str]]:
    """The recipe, where each setting comes from, and what people should know of it.

    Trigger words of a card that leave no room for the prompts are left out.
    """
    notes: list[str] = []
    pipeline, partial = loaded.pipeline, loaded.lora_partial
    recipe = generation.default_recipe(pipeline, model, overrides, lora_partial=partial)
    generation.check_settings(pipeline, recipe)
    try:
        generation.check_prompts(pipeline, prompt_sets, recipe)
    except InputError as error:
        if overrides.trigger_words is not None or not recipe.trigger_words:
            raise
        overrides = replace(overrides, trigger_words=())
        recipe = generation.default_recipe(pipeline, model, overrides, lora_partial=partial)
        try:
            generation.check_prompts(pipeline, prompt_sets, recipe)
        except InputError:
            raise error from None
        notes.append(
            "the trigger words of the model card are left out, since with them the model would cut "
            f"its prompts ({error.message}); --trigger-word WORD names shorter ones"
        )
    generation.require_words_used(pipeline, model, recipe, prompt_sets)
    notes.extend(generation.recipe_notes(pipeline, model, overrides))
    return recipe, generation.recipe_origins(pipeline, model, overrides), notes


def _own_proposal(
    job: _Job, draft: Spec, destination: Destination | None
) -> tuple[str | None, Spec | None, Path | None]:
    """What this account has proposed already: its address where it is all that there is to propose,
    the specification with the same images, and its contact sheet."""
    look = getattr(job.spec_store, "open_proposals", None)
    if (
        job.request.force
        or look is None
        or destination is None
        or destination.way != "pull request"
    ):
        return None, None, None
    for address, folder in look(job.ref):
        described = {weight.path: weight.sha256 for weight in draft.manifest.model.weights}
        spec = _read_folder(folder.parent, job.ref, described, job.hub)
        if spec is None or not has_same_images(spec, draft):
            continue
        sheet = folder / PREVIEW_NAME
        same = is_same(spec, draft) and spec.manifest.previous == draft.manifest.previous
        return address if same else None, spec, sheet if sheet.is_file() else None
    return None, None, None


def _destination_words(job: _Job, destination: Destination | None) -> str | None:
    if job.request.output is not None:
        return f"the folder {job.request.output / SPEC_DIR}"
    if destination is None:
        return None
    if destination.way == "folder":
        return f"the folder {destination.where}"
    return f"a {destination.way} to {destination.branch}: {destination.where}"


def _folder(destination: Destination | None) -> Path | None:
    there = destination is not None and destination.way == "folder"
    return Path(destination.where) if destination is not None and there else None


def _target(job: _Job, model: ModelFiles) -> str:
    if job.request.output is not None:
        return str(job.request.output / SPEC_DIR)
    beside = model.url or str(job.ref)
    return beside if job.request.store is None else f"the registry, for {beside}"


def _published(
    ref: ModelRef,
    store: Hub | SpecStore,
    weights: Mapping[str, str | None],
    hub: Hub,
) -> Spec | None:
    """The specification that ``store`` has now for ``ref``; a broken one counts as none.

    One under a former name is the model's where it describes ``weights``, or ``hub`` says that the
    name is a former one.

    One of a newer format version raises UnsupportedVersionError: an old program must not replace
    what it cannot read.
    """
    try:
        folder = store.fetch_spec(ref)
    except SpecNotFoundError:
        return None
    return _read_folder(folder.parent if folder.name == SPEC_DIR else folder, ref, weights, hub)


def _read_folder(
    folder: Path, ref: ModelRef, weights: Mapping[str, str | None], hub: Hub
) -> Spec | None:
    try:
        # One of another file in the same repository is what the new one replaces.
        return read_spec(
            folder, expected=ref.repository, own_weights=lambda: weights, follow_links=True
        )
    except SpecNotFoundError:
        return None
    except SpecFormatError:
        return read_former(hub, folder, ref)


class _Follower:
    """Follows the generation: the embeddings of all pictures, and the sheet that shows them."""

    def __init__(self, ready: _Ready) -> None:
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


def _generate(ready: _Ready, reading: _Follower) -> list[str]:
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


def _old_preview(ready: _Ready) -> bytes | None:
    """The contact sheet that stays; None for an output folder, where it lies already."""
    if ready.preview is not None:
        return ready.preview.read_bytes()
    job = ready.job
    if job.request.output is not None:
        return None
    path = job.spec_store.fetch_preview(ready.checked.place)
    return None if path is None else path.read_bytes()


def _write_files(job: _Job, spec: Spec, preview: bytes | None) -> str:
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
