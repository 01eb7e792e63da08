"""One model described again: locked, compared once more, published."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from gmi_registry.encoders import Encoder, EncoderName, load_encoder
from gmi_registry.errors import GenerationError, HubError, OfflineError, RateLimitError
from gmi_registry.generation import RecipeOverrides
from gmi_registry.hubs.open import opened_hub
from gmi_registry.hubs.protocol import Hub, SpecStore
from gmi_registry.publish import Progress, PublishRequest, publish
from gmi_registry.regeneration.plan import DUE, Survey, Verdict, judge
from gmi_registry.regeneration.store import folder_about, model_folder, model_lock
from gmi_registry.regeneration.work import Outcome, Result, Work, failed
from gmi_registry.spec import Manifest, ModelRef, PromptSet

_log = logging.getLogger(__name__)


def perform(work: Work, *, hub: Hub | None = None, progress: Progress | None = None) -> Result:
    """Describe one model anew, unless somebody has done it, or is doing it, by now.

    ``hub`` is the one that ``work`` names where it is open already. Of several processes of one
    machine one does it. Of several machines each may generate, and the first to push has it: what
    the hub holds is looked at once more before anything is sent, and the hub refuses a commit
    whose parent is no longer its newest.

    The author's own prompts, seeds, LoRA scale and, where no card states them, negative prompt,
    CLIP skip and true CFG scale are kept, and so is the base model that was named; the rest is what
    the card advises, as in a first publication. Raises nothing but KeyboardInterrupt and its like:
    errors are results.
    """
    start = time.perf_counter()
    try:
        with opened_hub(work.hub if hub is None else hub, work.options.access) as opened:
            result = _locked(work, opened, progress or (lambda stage, done, total: None))
    except Exception as error:  # a library's too: the other models do not stop for it
        _log.debug("%s", work.model, exc_info=True)
        result = failed(work, error, passing=_is_passing(error))
    return replace(result, seconds=round(time.perf_counter() - start, 3))


def _locked(work: Work, hub: Hub, progress: Progress) -> Result:
    about = folder_about(Path(work.options.work), hub)
    room = model_folder(about, work.model)
    with ExitStack() as stack:
        if not stack.enter_context(model_lock(about / "locks", work.model)):
            return Result(work.model, "busy", "another runner has it")
        ref = ModelRef.parse(work.model)
        store = stack.enter_context(_registry(work)) if work.to_registry else None

        def look() -> Verdict:
            return _look(hub, ref, store)

        now = look()
        if now.state not in DUE:
            outcome: Outcome = "fresh" if now.state == "fresh" else "set aside"
            return Result(work.model, outcome, now.reason, digest=now.digest)
        result = _published(work, hub, ref, now, store, look, progress, room)
        # With what killed runners left in it.
        shutil.rmtree(room, ignore_errors=True)
        return result


@contextmanager
def _registry(work: Work) -> Iterator[SpecStore]:
    from gmi_registry.hubs.open import open_registry

    with open_registry(work.options.access) as registry:
        yield registry


def _look(hub: Hub, ref: ModelRef, store: SpecStore | None) -> Verdict:
    survey = Survey(hub)
    if store is None:
        return judge(survey, ref)
    # The registry has one entry for each set of weights, of which one may be today's.
    places = [it.ref for it in store.listings(ref.hub) if it.ref.repository == ref.repository]
    verdicts = [judge(survey, ref, place=place, store=store) for place in places or [ref]]
    return next((it for it in verdicts if it.state not in DUE), verdicts[-1])


def _published(
    work: Work,
    hub: Hub,
    ref: ModelRef,
    now: Verdict,
    store: SpecStore | None,
    look: Callable[[], Verdict],
    progress: Progress,
    room: Path,
) -> Result:
    options = work.options
    target = _Watched(hub if store is None else store, look)
    request = PublishRequest(
        ref,
        work=room,
        prompts=_own_prompts(ref, now.manifest),
        base=None if now.manifest is None else now.manifest.model.named_base,
        overrides=_kept(now.manifest, now.advised),
        # Something is there that reads as true and is not.
        force=now.state == "broken",
        # Its maker allowed it when the specification was made.
        allow_partial=_was_partial(now.manifest),
        create_pr=options.create_pr,
        store=None if store is None else cast("SpecStore", target),
        device=options.device,
    )
    place = cast("Hub", target) if store is None else hub
    done = publish(request, place, load=_encoder, progress=progress)
    if target.overtaken is not None:
        reason = "published elsewhere while it was generated here"
        return Result(
            work.model, "fresh", reason, digest=target.overtaken.digest, images=done.images
        )
    if done.outcome == "already proposed":
        reason = "proposed before, and the owner has not decided"
        return Result(work.model, "proposed", reason, digest=done.spec_digest, where=done.where)
    if done.outcome == "up to date":
        return Result(work.model, "fresh", "up to date", digest=done.spec_digest, where=done.where)
    # Hugging Face calls the page of a pull request that.
    proposed = "/discussions/" in done.where
    return Result(
        work.model,
        "proposed" if proposed else "published",
        work.reason,
        digest=done.spec_digest,
        where=done.where,
        images=done.images,
    )


class _Watched:
    """``target``, which is looked at once more before anything is pushed to it.

    ``overtaken`` is what was there where somebody else was quicker; nothing is pushed then.
    """

    def __init__(self, target: Hub | SpecStore, look: Callable[[], Verdict]) -> None:
        self._target = target
        self._look = look
        self.overtaken: Verdict | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def push_spec(self, ref: ModelRef, folder: Path, **proposal: bool) -> str:
        now = self._look()
        if now.state == "fresh":
            self.overtaken = now
            return str(ref)
        return self._target.push_spec(ref, folder, **proposal)


def _own_prompts(ref: ModelRef, manifest: Manifest | None) -> PromptSet | None:
    """The developer's own block, which a new specification keeps."""
    own = () if manifest is None else manifest.prompt_sets[1:]
    if len(own) > 1:
        raise GenerationError(
            f"{ref} has {len(own)} prompt sets of its author's, and one can be kept",
            hint=f"its author decides which: gmi-publish {ref} --prompts FILE",
        )
    return own[0].prompt_set if own else None


def _kept(manifest: Manifest | None, advised: Collection[str]) -> RecipeOverrides:
    """What no card advises (``advised`` are the settings that one does), so that it can only have
    been its author's choice."""
    if manifest is None:
        return RecipeOverrides()
    recipe = manifest.generation.recipe
    negative = None if "negative_prompt" in advised else recipe.negative_prompt or None
    # Elsewhere it is the pipeline's or the family's, and what people call guidance.
    chosen = negative is not None or recipe.guidance_scale is not None
    scales = (
        {"true_cfg_scale"}
        if recipe.guidance_scale is not None
        else {"true_cfg_scale", "guidance_scale"}
    )
    return RecipeOverrides(
        seeds=recipe.seeds,
        negative_prompt=negative,
        clip_skip=None if "clip_skip" in advised else recipe.clip_skip,
        true_cfg_scale=recipe.true_cfg_scale if chosen and not scales & set(advised) else None,
        lora_scale=recipe.lora_scale if manifest.model.kind == "lora" else None,
    )


def _was_partial(manifest: Manifest | None) -> bool:
    return manifest is not None and manifest.generation.recipe.lora_partial is not None


def _encoder(name: EncoderName, folder: Path | None, device: str) -> Encoder:
    files = () if folder is None else tuple(_stamps(folder))
    return _loaded(name, folder, files, device)


@lru_cache(maxsize=1)
def _loaded(
    name: EncoderName, folder: Path | None, files: tuple[tuple[str, int, int], ...], device: str
) -> Encoder:
    """One after the other, models of a family share it. ``files`` are what is in the folder."""
    return load_encoder(*name, folder, device=device)


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in sorted(folder.iterdir()):
        status = path.stat()
        yield path.name, status.st_size, status.st_mtime_ns


def _is_passing(error: BaseException) -> bool:
    """Whether the hub or the network is to blame, and not the model."""
    if isinstance(error, RateLimitError | OfflineError):
        return True
    if not isinstance(error, HubError):
        return False
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TransportError | ConnectionError | TimeoutError):
            return True
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            return status >= 500 or status == 408
        cause = cause.__cause__
    return False
