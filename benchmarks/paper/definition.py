"""The benchmark file: its models, protocols, methods and prompts, and the rules for it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.paper.encoder_pair import PAIR
from benchmarks.paper.methods import METHODS
from gmi_registry.encoders import EncoderName
from gmi_registry.errors import InputError
from gmi_registry.generation import prompt_set_named
from gmi_registry.interrogators import MODES
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring import PAPER_GAMMA
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.manifest import Count, Name, Prompt, Text

PROTOCOLS: Mapping[str, str] = MappingProxyType(
    {
        "images-1": "one image a task",
        "images-2": "two images of one model, of different prompts and one seed",
        "images-3": "three such images",
        "images-4": "four such images",
        "images-5": "five such images",
        "split-2": "one image a task, against every other default prompt",
        "split-3": "one image a task, against the default prompts that split-2 leaves out",
        "own-prompts": "every specification has its developer's own prompts after the default ones",
        "own-prompts-default": "the same tasks against the default prompts alone",
        "own-prompts-mixed": "the same tasks; every second model has its developer's prompts",
    }
)

SINGLE = "images-1"
"""The protocol whose tasks are shown, studied one by one, and measured by more than ranks."""

OWN_PROMPTS = ("own-prompts", "own-prompts-default", "own-prompts-mixed")
"""The protocols whose tasks ask for what a developer's own prompts resemble."""

HALVES = ("split-2", "split-3")
"""The paper's Table 5 calls all default prompts Split 1, and two halves of them 2 and 3."""

_GROUPS = 3


def images_of(protocol: str) -> int:
    """How many images one task has."""
    head, _, count = protocol.rpartition("-")
    return int(count) if head == "images" else 1


def gallery_of(protocol: str) -> str:
    """Equal for protocols whose tasks choose from the same specifications."""
    return protocol if protocol in (*HALVES, *OWN_PROMPTS) else "default"


def windows(prompts: int, seeds: int, count: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """The tasks of one model: ``count`` pairs (prompt, seed) each, prompts x seeds tasks in all.

    The paper does not say how it puts several images together. Here each image opens one task,
    and the others are those of the prompts that follow, at its seed, beginning anew after the last
    prompt (at the next seed where all prompts are used up). So every image is asked with equally
    often, and a task for k images always holds that for k - 1. ``count`` is at most
    prompts x seeds.
    """
    for seed in range(seeds):
        for prompt in range(prompts):
            yield tuple(
                ((prompt + step) % prompts, (seed + step // prompts) % seeds)
                for step in range(count)
            )


def group_of(prompt: int, prompts: int) -> str:
    """``1`` to ``3``: the third of the evaluation prompts that number ``prompt`` is in."""
    return str(1 + _GROUPS * prompt // prompts)


_WITH_COMMON_SPACE = ("phrases", "clip_interrogator")


Fault = tuple[str, str | None]
"""What is wrong with a benchmark, and how to mend it."""


def faults(benchmark: Benchmark) -> Iterator[Fault]:
    """Each rule that the benchmark breaks.

    Raises InputError for the name of an encoder or a prompt set that there is not.
    """
    encoder = EncoderName.parse(benchmark.encoder)
    yield from _unknown("interrogator", [benchmark.interrogator], MODES)
    yield from _unknown("method", benchmark.methods, METHODS)
    yield from _unknown("protocol", benchmark.protocols, PROTOCOLS)
    if encoder == PAIR and benchmark.interrogator in _WITH_COMMON_SPACE:
        yield (
            f"the interrogator {benchmark.interrogator!r} compares pictures with texts, and the "
            f"towers of {PAIR} have no common space",
            "set interrogator = 'none'; methods called -ground-truth need no interrogator",
        )
    if benchmark.interrogator == "none" and "rkme-concat" in benchmark.methods:
        yield (
            "the method 'rkme-concat' needs a pseudo-prompt, and interrogator is 'none'",
            "set interrogator = 'phrases', or leave the method out",
        )
    if benchmark.generator == "example-2.1" and "rkme-basic" in benchmark.methods:
        yield "the method 'rkme-basic' needs pictures, and this generator draws points", None
    yield from _faults_of_pictures(benchmark)
    yield from _twice("model", [entry.model for entry in benchmark.models])
    yield from _twice("name", [entry.label for entry in benchmark.models])
    for what, prompts in _prompt_lists(benchmark):
        yield from _twice("words" if what == "words" else f"{what} prompt", prompts)
    evaluation, dev = benchmark.evaluation_prompts, benchmark.dev_prompts
    yield from _shared("evaluation", evaluation, "default", benchmark.defaults)
    yield from _shared("dev", dev, "default", benchmark.defaults)
    yield from _shared("dev", dev, "evaluation", evaluation)
    for seed in sorted(set(benchmark.seeds.dev) & set(benchmark.seeds.test)):
        yield (
            f"seed {seed} belongs to dev and to test",
            "fitting must not see what is tested: give dev seeds of its own",
        )
    for protocol in benchmark.protocols:
        if not fits(benchmark, protocol):
            yield (
                f"the protocol {protocol!r} needs more images of a model than prompts times seeds",
                "add evaluation and dev prompts or seeds, or leave the protocol out",
            )
    if not benchmark.protocols_of("dev"):
        yield "no protocol is left to fit on", "add 'images-1' to the protocols"
    if benchmark.own_prompts:
        yield from _faults_of_own_prompts(benchmark)
    if len({len(entry.words) for entry in benchmark.models}) > 1:
        yield (
            "every model needs as many words as the others",
            "give each model the same number of wordings, or none",
        )


def _faults_of_pictures(benchmark: Benchmark) -> Iterator[Fault]:
    if benchmark.generator != "pictures":
        if benchmark.pictures is not None:
            yield (
                "the field 'pictures' is for the generator 'pictures' alone",
                "set generator = 'pictures', or leave the field out",
            )
        return
    if benchmark.pictures is None:
        yield (
            "the generator 'pictures' needs a folder with a folder of pictures for each model",
            "add pictures = 'PATH' to the benchmark file",
        )
    stated = benchmark.recipe.model_dump(exclude_none=True)
    if not {"width", "height"} <= set(stated):
        yield (
            "the generator 'pictures' needs the size in which pictures are compared",
            "add width and height to [recipe]",
        )
    for name in stated:
        if name not in {"width", "height"}:
            yield (
                f"the recipe's {name!r} means nothing to pictures that are drawn already",
                "leave width and height alone in [recipe]",
            )


def _prompt_lists(benchmark: Benchmark) -> Iterator[tuple[str, Sequence[str]]]:
    yield "default", benchmark.defaults
    yield "evaluation", benchmark.evaluation_prompts
    yield "dev", benchmark.dev_prompts
    for entry in benchmark.models:
        yield "own", entry.own
        yield "asked", entry.asked
        yield "words", entry.words


def _faults_of_own_prompts(benchmark: Benchmark) -> Iterator[Fault]:
    for entry in benchmark.models:
        if not entry.own or not entry.asked:
            yield (
                f"the protocol 'own-prompts' needs own and asked prompts, {entry.model} lacks them",
                "add own = [...] and asked = [...] to the model, or leave the protocol out",
            )
        yield from _shared("own", entry.own, "default", benchmark.defaults)
        yield from _shared("asked", entry.asked, "default", benchmark.defaults)
        yield from _shared("asked", entry.asked, "own", entry.own)
    if len({len(entry.own) for entry in benchmark.models}) > 1:
        yield "every model needs as many own prompts as the others", None


def fits(benchmark: Benchmark, protocol: str) -> bool:
    """Whether both splits have as many images of a model as one task of the protocol needs."""
    if protocol in OWN_PROMPTS:
        return True
    sizes = (
        len(benchmark.dev_prompts) * len(benchmark.seeds.dev),
        len(benchmark.evaluation_prompts) * len(benchmark.seeds.test),
    )
    return images_of(protocol) <= min(sizes)


def _unknown(what: str, names: Sequence[str], known: Collection[str]) -> Iterator[Fault]:
    for name in names:
        if name not in known:
            yield f"there is no {what} named {name[:80]!r}", f"one of {', '.join(known)}"
    yield from _twice(what, names)


def _twice(what: str, names: Sequence[str]) -> Iterator[Fault]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"the {what} {name!r} stands there twice", None


def _shared(first: str, ours: Sequence[str], second: str, theirs: Sequence[str]) -> Iterator[Fault]:
    known = {_folded(prompt) for prompt in theirs}
    for prompt in ours:
        if _folded(prompt) in known:
            yield (
                f"the {first} prompt {prompt!r} is among the {second} prompts too",
                "prompts of different lists must not overlap: replace one of them",
            )


def _folded(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


FILL_IN = "FILL IN"
"""What a template says where its user has to decide; nothing runs while it is there."""

Split = Literal["dev", "test"]
SPLITS: tuple[Split, Split] = ("dev", "test")

_LIMIT = 1_000_000
_HINT = "mend the benchmark file"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelEntry(_Table):
    """One model: ``model`` as its hub calls it (``local:icon-neon``, ``hf:owner/name@sha``).

    ``name`` is what tables call it, by default the last part of ``model``. ``own`` are the prompts
    that its developer adds to the default set, ``asked`` what its users ask for, alike but not the
    same: both for the protocol ``own-prompts`` alone. ``words`` are ways to say how its images
    look, as many for each model, by which it is searched for in words.
    """

    model: Name
    name: Name | None = None
    own: Annotated[tuple[Prompt, ...], Field(max_length=200)] = ()
    asked: Annotated[tuple[Prompt, ...], Field(max_length=200)] = ()
    words: Annotated[tuple[Prompt, ...], Field(max_length=20)] = ()

    @property
    def label(self) -> str:
        """What tables call it."""
        bare = self.model.partition("@")[0]
        return self.name or re.split(r"[:/]", bare)[-1] or self.model


_Seeds = Annotated[tuple[Count, ...], Field(min_length=1, max_length=1000)]
_Prompts = Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=1000)]


class Seeds(_Table):
    """Seeds of the pictures in specifications, and of those that dev and test tasks ask with."""

    specs: _Seeds = (0,)
    dev: _Seeds
    test: _Seeds


class Recipe(_Table):
    """What differs from the recipe that each model's card and pipeline give; sizes in pixels."""

    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    width: Annotated[int, Field(ge=1, le=8192)] | None = None
    height: Annotated[int, Field(ge=1, le=8192)] | None = None
    negative_prompt: Text | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None


class Benchmark(_Table):
    """A benchmark. ``folder`` is where its file lies, ``limit`` what ``--limit`` said, or None.

    ``generator`` is ``diffusion``, ``example-2.1`` for the paper's two functions, or ``pictures``
    where each model is a folder in the folder ``pictures`` that holds PROMPT.png for each prompt.
    ``hub`` holds the models called ``local:``, and may hold the encoder; both are paths from the
    file. ``default_prompts`` may be the name of a set that the package carries. Distances closer
    than ``resolution`` are equal: 0 unless the arithmetic is known to be exact but for rounding.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
    version: Annotated[int, Field(ge=1)]
    generator: Literal["diffusion", "example-2.1", "pictures"] = "diffusion"
    hub: Text | None = None
    pictures: Text | None = None
    encoder: Name = "ViT-L-14/openai"
    interrogator: Name = "none"
    default_prompts: Name | _Prompts
    evaluation_prompts: _Prompts
    dev_prompts: _Prompts
    seeds: Seeds
    recipe: Recipe = Recipe()
    gamma: Annotated[float, Field(gt=0)] = PAPER_GAMMA
    resolution: Annotated[float, Field(ge=0, le=1e-6)] = 0.0
    protocols: Annotated[tuple[Name, ...], Field(min_length=1)] = ("images-1",)
    methods: Annotated[tuple[Name, ...], Field(min_length=1)] = tuple(METHODS)
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=2, max_length=1000)]
    folder: Path = Field(default=Path(), exclude=True)
    limit: int | None = Field(default=None, exclude=True)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the file says; comments and layout do not count."""
        return canonical_digest(self.model_dump(mode="json"))

    @property
    def defaults(self) -> tuple[str, ...]:
        """The default prompts themselves."""
        if isinstance(self.default_prompts, str):
            return prompt_set_named(self.default_prompts).prompts
        return self.default_prompts

    def prompts_of(self, split: Split) -> tuple[str, ...]:
        """The prompts that the tasks of a split ask with."""
        return self.evaluation_prompts if split == "test" else self.dev_prompts

    def seeds_of(self, split: Split) -> tuple[int, ...]:
        """Likewise the seeds."""
        return self.seeds.test if split == "test" else self.seeds.dev

    @property
    def own_prompts(self) -> bool:
        """Whether a protocol needs developers' own prompts."""
        return any(protocol in OWN_PROMPTS for protocol in self.protocols)

    def protocols_of(self, split: Split) -> tuple[str, ...]:
        """The protocols of a split. With developers' own prompts nothing is fitted: test alone."""
        if split == "test":
            return self.protocols
        return tuple(name for name in self.protocols if name not in OWN_PROMPTS)

    def limited(self, limit: int | None) -> Self:
        """The first ``limit`` prompts and seeds of each split; protocols too large for it are left
        out. All models and default prompts stay, so that chance is the same.
        Raises InputError where no protocol is left."""
        if limit is None:
            return self
        seeds = self.seeds.model_copy(
            update={"dev": self.seeds.dev[:limit], "test": self.seeds.test[:limit]}
        )
        small = self.model_copy(
            update={
                "evaluation_prompts": self.evaluation_prompts[:limit],
                "dev_prompts": self.dev_prompts[:limit],
                "seeds": seeds,
                "limit": limit,
            }
        )
        kept = tuple(name for name in self.protocols if fits(small, name))
        if not small.model_copy(update={"protocols": kept}).protocols_of("dev"):
            raise InputError(
                f"a limit of {limit} leaves no protocol of {self.name}", hint="give a larger limit"
            )
        return small.model_copy(update={"protocols": kept})


def load_benchmark(path: str | Path) -> Benchmark:
    """Read and check a benchmark file.

    Raises InputError, one line, for a file that is missing, no TOML, still a template, or breaks a
    rule: evaluation and dev prompts that overlap each other or the default ones, a seed in both
    splits, an unknown method, protocol, interrogator or prompt set, a model named twice.
    """
    path = Path(path)
    content = _parsed(path)
    unfilled = list(_unfilled(content, ""))
    if unfilled:
        more = f", and {len(unfilled) - 1} more fields" if len(unfilled) > 1 else ""
        raise InputError(
            f"{path} is a template: {unfilled[0]}{more} must be filled in first",
            hint=f"copy the file and replace every {FILL_IN!r}",
        )
    content.pop("folder", None)
    content.pop("limit", None)
    try:
        benchmark = Benchmark.model_validate({**content, "folder": path.parent})
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}", hint=_HINT) from None
    try:
        fault = next(faults(benchmark), None)
    except InputError as error:
        fault = error.message, error.hint
    if fault is not None:
        raise InputError(f"{path}: {fault[0]}", hint=fault[1] or _HINT)
    return benchmark


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LIMIT + 1)
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the benchmark: {error.strerror}", hint="name a benchmark's .toml"
        ) from None
    if len(data) > _LIMIT:
        raise InputError(f"{path}: larger than {_LIMIT:,} bytes", hint=_HINT)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no TOML: {reason}", hint=_HINT) from None


def _unfilled(value: object, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _unfilled(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unfilled(item, f"{place}[{number}]")
    elif isinstance(value, str) and value.startswith(FILL_IN):
        yield place
