"""The benchmark file: which models draw what, what is asked of them, and how it is scored."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmi_registry.bench.method import METHODS
from gmi_registry.bench.protocol import OWN_PROMPTS
from gmi_registry.bench.rule import check_rules, fits
from gmi_registry.errors import InputError
from gmi_registry.generation import prompt_set_named
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring import PAPER_GAMMA
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.fields import Count, Name, Prompt, Text

__all__ = ["FILL_IN", "SPLITS", "Benchmark", "ModelEntry", "Split", "load_benchmark"]

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
        check_rules(benchmark)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint or _HINT) from None
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
