"""What a Python program calls: ``gmi_registry.search``, ``publish`` and ``load_spec``.

Hubs and models may be given by the names that people type. The command line is a layer over these.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL.Image import Image

from gmi_registry.atomic import user_cache
from gmi_registry.encoders.encoder import Encoder
from gmi_registry.hubs.open import (
    HubAccess,
    find_model,
    find_spec,
    hub_named_in,
    opened_hub,
)
from gmi_registry.hubs.protocol import Hub, SearchableHub
from gmi_registry.model import Kind
from gmi_registry.search.request import WORKERS, ImageSource, SearchRequest
from gmi_registry.search.result import Progress, SearchResult
from gmi_registry.search.run import search as search_hub
from gmi_registry.spec import ModelRef, PromptSet, Spec

if TYPE_CHECKING:
    from gmi_registry.generation import RecipeOverrides
    from gmi_registry.generation.placement import Offload
    from gmi_registry.publish import Progress as PublishProgress
    from gmi_registry.publish import Publication

__all__ = ["load_spec", "publish", "search"]

_log = logging.getLogger(__name__)

HubSource: TypeAlias = str | Path | Hub
"""``hf``, a folder that holds ``hub.json``, or a hub that is open already."""

SearchableHubSource: TypeAlias = str | Path | SearchableHub
"""Like :data:`HubSource`; an object with the few methods that a search needs will do."""


def search(
    images: ImageSource | Sequence[ImageSource] = (),
    hub: SearchableHubSource | None = None,
    *,
    like: str | Path | ModelRef | None = None,
    not_like: ImageSource | Sequence[ImageSource] = (),
    style: str | None = None,
    tags: Sequence[str] = (),
    not_tags: Sequence[str] = (),
    base_model: str | None = None,
    kind: Kind | None = None,
    nsfw: bool = False,
    fresh_only: bool = False,
    score: str = "default",
    interrogator: str = "none",
    prompt: str | None = None,
    top: int | None = 10,
    repeats: bool = False,
    index: str | Path = "auto",
    cache_dir: str | Path | None = None,
    token: str | None = None,
    registry: str | None = None,
    civitai_token: str | None = None,
    offline: bool | None = None,
    encoder: Encoder | None = None,
    device: str = "cpu",
    workers: int = WORKERS,
    progress: Progress = lambda stage, done, total: None,
) -> SearchResult:
    """Rank the models of ``hub`` by how near their images are to ``images``, which are one query.

    ``images`` are paths, encoded bytes, or PIL images of any size and mode, one or several; they
    stay on this machine. ``hub`` is ``"hf"``, a folder, or a Hub (None: GMI_HUB, else ``"hf"``).

    ``prompt`` says what the images show; without it ``interrogator`` (none, phrases, caption,
    clip_interrogator) may guess. ``not_like`` are pictures of what is not wanted: models that
    may have made one move back, the more the likelier it is. ``style`` are words for how images
    should look; they count beside ``images`` as the encoder's own softmax over texts and images has
    it. Both are for the default score. Without images ``prompt`` is compared with the
    models' images, in the space that the encoder's towers share, which says less than a picture
    does; or ``like`` names a model, of ``hub`` or a folder with a specification, and others are
    ranked by the discrepancy (MMD²) of what they generate for the same prompts, itself left out.

    Only models with all of ``tags`` and none of ``not_tags``, from ``base_model`` and of ``kind``
    are compared. Letter case, white space around and between words, and the way in which Unicode
    composes a letter do not count. Tags and base models are those that the hub lists now, and those
    of the specification where it lists none. Of Civitai's models those rated above PG are among
    them with ``nsfw`` alone. ``fresh_only`` leaves out models whose weights have changed since they
    were described. ``score`` is the name of a distance to images, smaller is
    nearer; ``top`` the most models shown of each group (None: all). Of models whose
    specifications repeat each other, as their ``repeats`` say, one takes room from other models,
    with ``repeats`` each of them. ``index`` is the folder of an
    index in place of the hub's listing, ``"auto"`` for the registry's where it has one, ``"none"``
    for specifications one by one.

    ``cache_dir`` takes the place of this user's caches. ``token``, ``registry``, ``civitai_token``
    and ``offline`` are for a hub that is opened here, see :class:`gmi_registry.hubs.HubAccess`.
    ``encoder`` overrides the one that the specifications name; it gives float32 [B, D] for B images
    and [B, E] for B texts.
    ``workers`` specifications are read at a time. ``progress`` is told (stage, done, total).

    In the result ``hits`` are the models, nearest first, with ``distance`` (no unit, comparable
    within one group and score) and ``stale``; ``skipped`` those that could not be used, with the
    reason; ``timings`` are in seconds. A search that finds nothing is an empty result, no error.

    Raises InputError for an image, score, prompt or hub that cannot be used, for parts that do not
    go together (``like`` goes alone), and for a text alone where the encoder's towers share no
    space, or for ``style`` where they were not trained together; SpecNotFoundError or SpecError for
    ``like``; HubError, AuthError or RateLimitError where the hub gives no listing; OfflineError
    where the network is needed and off; IncomparableSpecsError where the encoder is not the one
    that made the specifications; MissingExtraError for an interrogator that is not installed.
    """
    request = SearchRequest(
        images=_listed(images),
        not_like=_listed(not_like),
        prompt=prompt,
        style=style,
        like=None if like is None else str(like),
        tags=tuple(tags),
        not_tags=tuple(not_tags),
        base_model=base_model,
        kind=kind,
        nsfw=nsfw,
        fresh_only=fresh_only,
        score=score,
        interrogator=interrogator,
        top=top,
        repeats=repeats,
        index=index,
        device=device,
        workers=workers,
    )
    cache = None if cache_dir is None else Path(cache_dir)
    access = HubAccess(cache, token, offline, registry, civitai_token)
    with opened_hub(hub, access) as opened:
        return search_hub(request, opened, access, encoder=encoder, progress=progress)


def publish(
    model: str | ModelRef,
    hub: HubSource | None = None,
    *,
    revision: str | None = None,
    prompts: PromptSet | str | Path | None = None,
    base: str | ModelRef | None = None,
    overrides: RecipeOverrides | None = None,
    output: str | Path | None = None,
    work: str | Path | None = None,
    dry_run: bool = False,
    force: bool = False,
    allow_partial: bool = False,
    keep_images: bool = False,
    create_pr: bool | None = None,
    to_registry: bool = False,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    registry: str | None = None,
    civitai_token: str | None = None,
    encoder: Encoder | None = None,
    device: str | None = None,
    offload: Offload | None = None,
    progress: PublishProgress = lambda stage, done, total: None,
) -> Publication:
    """Describe ``model`` of ``hub`` by the images that it generates; the result lies beside it.

    ``model`` is its name on the hub, a whole reference such as ``hf:owner/name``, the address of
    its page, or a ModelRef; on Hugging Face ``owner/name/FILE.safetensors`` is one of several
    files. ``revision`` pins it. ``prompts`` are the developer's own besides the default ones, a
    PromptSet or a file with one a line. ``base`` names the model that a LoRA, a textual inversion
    or a single file was made for: a repository on Hugging Face, at a revision where one follows the
    name, or a model of the same local hub; without it the card, the file's metadata or its layers
    tell. ``overrides`` change the recipe, whose widths and heights are in pixels. With ``output``
    the files go to ``output``/gmi and the hub is left alone; ``create_pr`` proposes the change in
    place of making it (None: as is usual there, which for the registry is a proposal); with
    ``allow_partial`` a LoRA is described of which some tensors have no place in its base; with
    ``to_registry`` it goes to the registry and not beside the model, where those of Civitai's
    models go anyway. ``work`` keeps the images of an interrupted call (None: in ``cache_dir``). The
    rest is as for :func:`search` and :func:`gmi_registry.publish.publish`, whose result this
    returns.

    Raises InputError, AuthError, HubError, SpecError, GenerationError, or MissingExtraError where
    the libraries that generate are not installed; the hub is then as it was.
    """
    from gmi_registry.generation import RecipeOverrides
    from gmi_registry.publish import PublishRequest
    from gmi_registry.publish import publish as publish_model

    cache = None if cache_dir is None else Path(cache_dir)
    if isinstance(prompts, str | Path):
        prompts = PromptSet.from_file(Path(prompts))
    access = HubAccess(cache, token, None, registry, civitai_token)
    with ExitStack() as opening:
        named = hub_named_in(str(model)) if hub is None else hub
        opened = opening.enter_context(opened_hub(named, access))
        store = None
        if to_registry and opened.name != "civitai":
            from gmi_registry.hubs.open import open_registry

            store = opening.enter_context(open_registry(access))
        request = PublishRequest(
            _model_of(find_model(str(model), opened, revision)),
            work=_work_folder(work, cache),
            prompts=prompts,
            overrides=overrides or RecipeOverrides(),
            base=base,
            encoder=encoder,
            output=None if output is None else Path(output),
            create_pr=create_pr,
            store=store,
            dry_run=dry_run,
            force=force,
            allow_partial=allow_partial,
            keep_images=keep_images,
            device=device,
            offload=offload,
        )
        return publish_model(request, opened, progress=progress)


def load_spec(
    model: str | Path | ModelRef,
    hub: SearchableHubSource | None = None,
    *,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    offline: bool | None = None,
    registry: str | None = None,
) -> Spec:
    """The specification in a folder, or of a model on a hub, read and checked.

    ``model`` is a folder that holds ``gmi/``, that folder itself, or a model: ``hf:owner/name``
    (``@`` a revision after it), the address of its page, or its name on ``hub``. A model with none
    beside it has that of the registry, where there is one. In the result ``image_embeddings`` is
    float16 [N, D], ``prompt_embeddings`` float16 [P, E] and ``image_prompt`` int32 [N], the prompt
    of each image; ``manifest`` says the rest. Keywords as for :func:`search`.

    Raises SpecNotFoundError where there is none, SpecFormatError, DigestMismatchError or
    UnsupportedVersionError for one that cannot be used, InputError, HubError or OfflineError.
    """
    cache = None if cache_dir is None else Path(cache_dir)
    access = HubAccess(cache, token, offline, registry)
    return find_spec(str(model), hub, access).read()


def _model_of(ref: ModelRef) -> ModelRef:
    """The model that is described where ``ref`` may be a registry's entry, as searches print it."""
    if ref.hub != "hf" or not ref.is_entry:
        return ref
    _log.warning("%s is an entry of the registry: the model is described as it is now", ref)
    return ref.without_revision


def _listed(images: ImageSource | Sequence[ImageSource]) -> Sequence[ImageSource]:
    return [images] if isinstance(images, str | Path | bytes | Image) else images


def _work_folder(chosen: str | Path | None, cache_dir: Path | None) -> Path:
    if chosen is not None:
        return Path(chosen)
    return user_cache(cache_dir) / "work"
