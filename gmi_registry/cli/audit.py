"""An audit as the command line makes it: prompts by lot, hubs by name, the outcome as a finding."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.cli.folder import cache_folder, work_folder
from gmi_registry.cli.progress import StageProgress
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.open import opened_hub

if TYPE_CHECKING:
    from gmi_registry.hubs.registry.review import Finding, Inspection

__all__ = ["Hubs", "audited"]

_STAGES = {
    "check": "loading the model",
    "generate": "drawing images again",
    "encode": "encoding images",
}
_SEEDS = 2**32
_HUBS = ("civitai", "hf")


class Hubs(Mapping[str, Any]):
    """The hubs of the models, each opened when it is asked for the first time."""

    def __init__(self, stack: ExitStack, access: HubAccess) -> None:
        self._stack = stack
        self._access = access
        self._opened: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._opened:
            self._opened[name] = self._stack.enter_context(opened_hub(name, self._access))
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_HUBS)

    def __len__(self) -> int:
        return len(_HUBS)


def audited(
    found: Inspection,
    hubs: Mapping[str, Any],
    count: int,
    seed: int | None,
    device: str | None,
    cache_dir: Path | None,
    *,
    quiet: bool,
) -> Finding:
    """Draw the images of ``count`` prompts again, where nothing failed before.

    ``seed`` chooses the prompts, None draws one. Does not raise for what is found, an error of the
    model or its hub included.
    """
    from gmi_registry.hubs.registry.review import Finding

    if not found.passed or found.spec is None or found.entry is None:
        return Finding("audit", "skipped", "the rest is not in order")
    from gmi_registry.audit import audit, choose_prompts
    from gmi_registry.cli.silence import without_future_warnings
    from gmi_registry.errors import GmiError
    from gmi_registry.hubs.registry.review import MEAN_TOLERANCE, ROW_TOLERANCE

    seed = secrets.randbelow(_SEEDS) if seed is None else seed
    prompts = choose_prompts(found.spec, count, seed)
    work = work_folder(None, cache_folder(cache_dir))
    try:
        with StageProgress(_STAGES, quiet=quiet) as progress, without_future_warnings():
            result = audit(
                found.spec,
                hubs[found.entry.hub],
                prompts,
                work=work,
                device=device,
                progress=progress,
            )
    except GmiError as error:
        return Finding("audit", "failed", error.message, error.hint)
    detail = (
        f"{len(result.images)} images of {len(prompts)} prompts (seed {seed}): mean shift "
        f"{result.mean:.3f} of {MEAN_TOLERANCE:g}, worst {result.worst.shift:.3f} of "
        f"{ROW_TOLERANCE:g} ({result.worst.prompt!r}), of texts {result.text:.4f}"
    )
    if result.agrees:
        return Finding("audit", "ok", detail)
    hint = "draw more of them on another machine before you accuse somebody: --audit"
    return Finding("audit", "failed", detail, hint)
