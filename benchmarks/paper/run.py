"""A benchmark from its file to its results folder, stage by stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.paper.definition import SPLITS, Benchmark
from benchmarks.paper.encoder_pair import PAIR, require_pair
from benchmarks.paper.folder import SUMMARY, StageCache, document_bytes, put, versions
from benchmarks.paper.generate import (
    draw_stage,
    embed_stage,
    forget_drawn,
    generate_stage,
    interrogate_stage,
)
from benchmarks.paper.generators import Generator
from benchmarks.paper.score import score_stage
from gmi_registry import generation
from gmi_registry.device import require_device, require_dtype
from gmi_registry.encoders import EncoderName, check_encoder
from gmi_registry.errors import InputError
from gmi_registry.hubs import HubAccess, open_hub
from gmi_registry.interrogators import require_interrogator

Stage = Literal["generate", "embed", "interrogate", "score", "draw", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)

Progress = Callable[[str, int, int], None]
"""Told (stage, done, total); before the stages, ``models`` are fetched."""

MARK = "run.json"
_MARK_FORMAT = {"name": "gmi-bench-run", "version": 1}
_SUMMARY_FORMAT = {"name": "gmi-bench", "version": 1}


@dataclass(frozen=True)
class Outcome:
    """What a run did: for each stage it came to, whether anything had to be made, and seconds.

    ``seconds`` are those of the stage's parts when they were made, in this run or an earlier one.
    """

    folder: Path
    made: dict[str, bool]
    seconds: dict[str, float]


def run_benchmark(
    benchmark: Benchmark,
    folder: Path,
    *,
    last: Stage = "report",
    device: str | None = None,
    access: HubAccess | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Outcome:
    """Bring ``folder`` up to date with ``benchmark``, up to and with the stage ``last``.

    A stage redoes only what depends on something that changed. A run that was killed goes on where
    it stopped, and leaves the bytes that an undisturbed one does, seconds apart. Raises InputError
    for a folder that holds something else or another version of the benchmark, before anything in
    it is touched; and what the stages raise.
    """
    access = access or HubAccess()
    if benchmark.generator != "example-2.1":
        _check_machine(benchmark, last, device, access)
    _claim(benchmark, folder)
    generator = _open(benchmark, folder / "work", device, access, progress)
    _forget_other(benchmark, folder)
    cache = StageCache(folder)
    made: dict[str, bool] = {}
    with closing(generator):
        for stage in STAGES[: STAGES.index(last) + 1]:

            def told(done: int, total: int, stage: str = stage) -> None:
                progress(stage, done, total)

            made[stage] = _do(stage, benchmark, generator, cache, told)
    return Outcome(folder, made, {stage: cache.seconds(stage) for stage in made})


def _check_machine(
    benchmark: Benchmark, last: Stage, device: str | None, access: HubAccess
) -> None:
    """What can be refused before a model is fetched or an image generated, hours before its use."""
    found = require_device(device)
    if benchmark.generator == "diffusion":
        generation.require_packages()
        require_dtype(found, benchmark.recipe.dtype or "float32")
    if last == "generate":
        return
    cache = None if access.cache_dir is None else access.cache_dir / "hub"
    require_interrogator(benchmark.interrogator, cache_dir=cache, offline=bool(access.offline))
    name = EncoderName.parse(benchmark.encoder)
    if name == PAIR:
        require_pair()
        return
    if benchmark.hub is None and any(it.model.startswith("local:") for it in benchmark.models):
        return  # which is refused at once, and the encoder may lie on the hub that is not named
    folder = None
    if benchmark.hub is not None:
        hub = open_hub(benchmark.folder / benchmark.hub, access)
        folder = hub.fetch_encoder(*name)
    check_encoder(*name, folder, cache_dir=cache, offline=bool(access.offline))


def _do(
    stage: Stage,
    benchmark: Benchmark,
    generator: Generator,
    cache: StageCache,
    progress: Callable[[int, int], None],
) -> bool:
    """One stage; whether it had anything to do."""
    if stage == "generate":
        return generate_stage(benchmark, generator, cache, progress)
    if stage == "embed":
        return embed_stage(benchmark, generator, cache, progress)
    if stage == "interrogate":
        return interrogate_stage(benchmark, generator, cache, progress)
    if stage == "score":
        # Handed no generator: what draws the pictures knows the answers.
        made = score_stage(benchmark, cache, progress)
        if not (cache.folder / SUMMARY).exists():
            # Something has changed, and with it perhaps what was picked or how it draws.
            forget_drawn(cache.folder)
        _summarise(benchmark, cache)
        return made
    if stage == "draw":
        try:
            return draw_stage(benchmark, generator, cache, progress)
        finally:
            # What was not drawn took the summary away, but the distances are as they were.
            _summarise(benchmark, cache, *(("draw",) if generator.free else ()))
    from benchmarks.paper.report import write_report

    progress(0, 1)
    write_report(cache.folder)
    progress(1, 1)
    return True


def _open(
    benchmark: Benchmark, work: Path, device: str | None, access: HubAccess, progress: Progress
) -> Generator:
    if benchmark.generator == "example-2.1":
        from benchmarks.paper.generators import CircleGenerator

        return CircleGenerator(benchmark, work)
    if benchmark.generator == "pictures":
        from benchmarks.paper.generators import PictureGenerator

        return PictureGenerator(benchmark, work, device=device, access=access)
    from benchmarks.paper.generators import DiffusionGenerator

    def told(done: int, total: int) -> None:
        progress("models", done, total)

    return DiffusionGenerator(benchmark, work, device=device, access=access, progress=told)


def _claim(benchmark: Benchmark, folder: Path) -> None:
    """Make ``folder`` this benchmark's, unless it is something else's."""
    wanted = {"name": benchmark.name, "version": benchmark.version, "limit": benchmark.limit}
    mark = folder / MARK
    try:
        if not mark.exists():
            if folder.exists() and not (folder.is_dir() and _only_pictures(folder)):
                raise InputError(
                    f"{folder} holds something else than a benchmark's results",
                    hint="name a new or empty folder: --out DIR",
                )
            put(mark, document_bytes({"format": _MARK_FORMAT, "benchmark": wanted}))
            return
        found = json.loads(mark.read_bytes())
        known, theirs = found["format"] == _MARK_FORMAT, found["benchmark"]
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read: {error.strerror or error}", hint="name another --out DIR"
        ) from error
    except (ValueError, KeyError, TypeError):
        known, theirs = False, None
    if not known or not isinstance(theirs, dict):
        raise InputError(
            f"{folder} was written by another version of this benchmark",
            hint="name a new folder: --out DIR",
        )
    if theirs != wanted:
        raise InputError(
            f"{folder} holds {_spoken(theirs)}, and this is {_spoken(wanted)}",
            hint="name another folder: --out DIR",
        )


def _only_pictures(folder: Path) -> bool:
    """Whether it holds nothing, or what was copied from another run so as not to draw it twice.

    Copied pictures and records count by their content alone, like those of this run.
    """
    names = {path.name for path in folder.iterdir()}
    return not names or (names == {"images", "stages"} and (folder / "stages/generate").is_dir())


def _spoken(benchmark: dict[str, Any]) -> str:
    limit = benchmark.get("limit")
    more = "" if limit is None else f" with --limit {limit}"
    name, version = (str(benchmark.get(key))[:80] for key in ("name", "version"))
    return f"{name} version {version}{more}"


def _summary(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "format": _SUMMARY_FORMAT,
        "name": benchmark.name,
        "version": benchmark.version,
        "limit": benchmark.limit,
        "digest": benchmark.digest,
        "generator": benchmark.generator,
        "encoder": benchmark.encoder,
        "interrogator": benchmark.interrogator,
        "gamma": benchmark.gamma,
        "libraries": versions(),
        "splits": list(SPLITS),
        "protocols": list(benchmark.protocols),
        "methods": list(benchmark.methods),
    }


def _summarise(benchmark: Benchmark, cache: StageCache, *more: str) -> None:
    """Say that all distances are there, and what the stages up to them, and ``more``, took."""
    stages = (*STAGES[: STAGES.index("score")], "fit", "score", *more)
    seconds = {stage: cache.seconds(stage) for stage in stages}
    put(cache.folder / SUMMARY, document_bytes({**_summary(benchmark), "seconds": seconds}))


def _forget_other(benchmark: Benchmark, folder: Path) -> None:
    """Remove the summary of another state of the benchmark: tasks are about to change."""
    place = folder / SUMMARY
    try:
        found = json.loads(place.read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("digest") != benchmark.digest:
        place.unlink(missing_ok=True)
