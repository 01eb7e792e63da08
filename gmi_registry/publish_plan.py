"""What publishing would do, and all that can be refused before the first image is generated.

The quick checks come first and downloads last: what this machine tells, what the hub tells, what
the model's configuration tells, and what the loaded model tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Literal

from gmi_registry import generation
from gmi_registry.device import require_device, require_dtype
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
from gmi_registry.hubs.open import read_former
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
)
from gmi_registry.spec.manifest import ROWS_LIMIT

Stage = Literal["check", "generate", "encode", "write"]


Progress = Callable[[Stage, int, int], None]
"""Told (stage, done, total): steps in ``check`` and ``write``, pictures in the other two.

Those two go on side by side.
"""


EncoderLoader = Callable[[EncoderName, Path | None, str], Encoder]
"""Told the encoder's name, the folder where a hub has it, and the device."""


CHECKS = 6


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
class Job:
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


@dataclass(frozen=True)
class Checked:
    """What is known before the model is loaded, and holds for whatever recipe it gets.

    ``published`` is the specification at ``place``, which the new one names as its ``previous``.
    """

    job: Job
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
class Ready:
    """What the checks leave behind for the work.

    ``existing`` lies at the place now, or in a proposal of this account's; ``preview`` is the
    contact sheet that is beside it there, where that is a proposal. ``overrides`` are those by
    which the recipe was made, and ``job`` names the model's file in full where a pattern was
    given.
    """

    checked: Checked
    loaded: generation.LoadedModel
    overrides: RecipeOverrides
    cache: BatchCache
    existing: Spec | None
    preview: Path | None
    plan: Plan

    @property
    def job(self) -> Job:
        return self.checked.job

    @property
    def model(self) -> ModelFiles:
        return self.checked.model

    @property
    def encoder(self) -> Encoder:
        return self.checked.encoder


def check_machine(request: PublishRequest) -> str:
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


def present_name(ref: ModelRef, hub: Hub) -> ModelRef:
    names = knows_names(hub)
    if names is None:
        return ref
    try:
        return names.current(ref)
    except (AuthError, SpecNotFoundError):
        # The checks that follow say what it is, if it is no model that may be described.
        return ref


def prepare(job: Job, device: str, load: EncoderLoader | None) -> Ready:
    """Everything that can be refused without an image and that this machine alone cannot tell, the
    quick checks first, downloads last; ``device`` is there.

    A dry run is this and no more, so that it finds whatever a publication would.
    """
    request, progress = job.request, job.progress
    overrides, encoder = request.overrides, request.encoder
    progress("check", 1, CHECKS)
    destination = _check_destination(job)
    place = _place(job, destination)
    progress("check", 2, CHECKS)
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
    progress("check", 3, CHECKS)
    model = _fetch(job, found)
    generation.describe(model)
    progress("check", 4, CHECKS)
    if encoder is None:
        folder = job.hub.fetch_encoder(*found.encoder)
        encoder = (load or _load)(found.encoder, folder, device)
    progress("check", 5, CHECKS)
    checked = Checked(
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
    ready = planned(checked, loaded, overrides)
    progress("check", CHECKS, CHECKS)
    return ready


def planned(
    checked: Checked,
    loaded: generation.LoadedModel,
    overrides: RecipeOverrides,
    *,
    vae_tiling: bool = False,
) -> Ready:
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
    return Ready(checked, loaded, overrides, cache, proposed or existing, preview, plan)


def _check_destination(job: Job) -> Destination | None:
    """Where the hub, or the store, would put the files; None where it does not say."""
    if job.request.output is not None:
        return None
    return job.spec_store.check_writable(job.ref, **job.proposal)


def _place(job: Job, destination: Destination | None) -> ModelRef:
    """Where the specification that would be replaced is read: of a commit or a tag not there."""
    ref = job.ref
    beside = job.request.store is None and ref.hub == "hf" and ref.revision is not None
    if not beside or destination is None or destination.branch is None:
        return ref
    return ModelRef(ref.hub, ref.id, destination.branch, ref.file)


def _find(job: Job, destination: Destination | None) -> _ModelFacts:
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


def _fetch(job: Job, found: _ModelFacts) -> ModelFiles:
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
    job: Job, draft: Spec, destination: Destination | None
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


def _destination_words(job: Job, destination: Destination | None) -> str | None:
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


def _target(job: Job, model: ModelFiles) -> str:
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
