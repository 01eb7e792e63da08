"""What goes wrong in one run, drawn from its seed and from nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from tests.support.hostile_specs import hostile_cases, hostile_files
from tests.support.hub_builder import lora_of
from tests.support.loopback import Fault

__all__ = ["KINDS", "Plan", "draw"]

KINDS = {
    "publish": (
        "429", "500", "cut", "slow", "stale-parent", "changed-file", "wrong-digest",
        "hostile-content",
    ),
    # Nothing is committed by a search: its stale parent is a file that changes under its feet.
    "search": ("429", "500", "cut", "slow", "changed-file", "wrong-digest", "hostile-content"),
}  # fmt: skip
"""The faults of each stage. A run's first one goes by its seed, so that none is left to chance."""

_ANYWHERE = ("429", "500", "cut", "slow")
_PLACES = {
    "publish": (
        "/commit/", "/preupload/", "objects/batch", "objects/verify", "/upload/", "/storage/",
        "/resolve/", "whoami", "/api/models/", "README", "safetensors", "spec.json",
        "spec.tensors", "validate-yaml", "discussions", ".",
    ),
    "search": (
        "/api/models[?]", "/api/models/", "/resolve/", "/storage/", "spec.json", "spec.tensors",
        "(red|green).*spec.json", "blue.*spec.tensors", ".",
    ),
}  # fmt: skip
_FILES = {
    "publish": ("README", "safetensors", "spec.json", "spec.tensors"),
    "search": ("spec.json", "spec.tensors", "green.*spec.json", "red.*spec.tensors"),
}
_CARDS = (b"---\nx: [\n---\n", b"# Another\n", b"---\nlicense: mit\n---\nMore.\n")
_TIMES = (1, 1, 1, 2, 3, 8)


@dataclass
class Plan:
    """One run. ``faults`` meet its first attempt only.

    ``case`` is the hostile vector of this run: what lies beside the model where ``before`` is
    ``hostile``, what a bad model of a search holds, and what is served by faults of that kind.
    ``sheets`` tells whether the old and the new specification have a preview. In a ``hasty`` run
    the client waits a quarter of a second for a file's bytes, and slow ones take twice as long.
    With several ``workers`` it is the scheduler who says which of them meets a fault.
    """

    seed: int
    stage: Literal["publish", "search"]
    case: str
    faults: list[Fault]
    before: str
    owner: bool
    create_pr: bool
    sheets: tuple[bool, bool]
    private: bool
    xet: bool
    hasty: bool
    workers: int
    page_size: int


def draw(seed: int) -> Plan:
    """The plan of a seed, which is any whole number from 0."""
    rng = random.Random(seed)
    stage: Literal["publish", "search"] = "search" if seed % 2 else "publish"
    turn = seed // 2
    kinds = KINDS[stage]
    first = kinds[turn % len(kinds)]
    case = hostile_cases()[turn % len(hostile_cases())]
    hasty = first == "slow" and rng.random() < 0.3
    xet = rng.random() < 0.1
    others = [rng.choice(kinds) for _ in range(rng.choice([0, 0, 1, 2]))]
    return Plan(
        seed=seed,
        stage=stage,
        case=case,
        faults=[_fault(rng, stage, kind, case, hasty, xet) for kind in (first, *others)],
        before=rng.choice(["nothing", "old", "old", "hostile"]),
        owner=rng.random() < 0.7,
        create_pr=rng.random() < 0.1,
        sheets=(rng.random() < 0.5, rng.random() < 0.5),
        private=rng.random() < 0.2,
        xet=xet,
        hasty=hasty,
        workers=rng.choice([1, 1, 1, 4]),
        page_size=rng.choice([2, 1000]),
    )


def _fault(rng: random.Random, stage: str, kind: str, case: str, hasty: bool, xet: bool) -> Fault:
    times = rng.choice(_TIMES)
    place = rng.choice(_FILES[stage])
    match kind:
        case "stale-parent":
            theirs = rng.choice(("notes", "card", "preview", "weights", "specification"))
            files: dict[str, bytes | None] = {"notes.txt": b"in between\n"}
            match theirs:
                case "card":
                    files = {"README.md": rng.choice(_CARDS)}
                case "preview":
                    files = {"gmi/preview.webp": None}
                case "weights":
                    files = {"pytorch_lora_weights.safetensors": lora_of(-1.0)}
                case "specification":
                    files = dict(hostile_files(case))
            return Fault("stale-parent", files=files, times=rng.choice([1, 1, 9]))
        case "changed-file":
            content = rng.choice(_CARDS) if place == "README" else None
            if place == "safetensors":
                content = lora_of(-2.0)
            return Fault("changed-file", path_regex=place, content=content, times=min(times, 3))
        case "wrong-digest":
            return Fault("wrong-digest", path_regex=place, times=times)
        case "hostile-content":
            content = rng.choice(_CARDS)
            if "spec" in place:
                name = "gmi/spec.json" if "json" in place else "gmi/spec.tensors"
                content = hostile_files(case).get(name, b"")
            return Fault("hostile-content", path_regex=place, content=content, times=times)
    if hasty and kind == "slow":
        return Fault("slow", path_regex="/(resolve|storage)/", seconds=5.0, times=min(times, 2))
    assert kind in _ANYWHERE
    path = rng.choice(_PLACES[stage])
    if xet and rng.random() < 0.5:
        # hf_xet asks for these by itself, and its waits are real.
        path, times = "/xet-(read|write)-token/", 1
    return Fault(
        kind,  # type: ignore[arg-type]
        path_regex=path,
        times=times,
        retry_after=rng.choice([0, 1, 7, 400]),
        seconds=0.02,
        applied=rng.choice([None, True, False]),
    )
