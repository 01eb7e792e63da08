"""What a benchmark must not do, such as ask with a prompt that its specifications answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from gmi_registry.bench.method import METHODS, WITH_PSEUDO_PROMPTS
from gmi_registry.bench.protocol import OWN_PROMPTS, PROTOCOLS, images_of
from gmi_registry.encoders import EncoderName
from gmi_registry.errors import InputError
from gmi_registry.interrogators import MODES

if TYPE_CHECKING:
    from gmi_registry.bench.file import Benchmark

__all__ = ["check_rules", "fits"]


def check_rules(benchmark: Benchmark) -> None:
    """Raise InputError for the first rule that the benchmark breaks."""
    EncoderName.parse(benchmark.encoder)
    _require_known("interrogator", [benchmark.interrogator], MODES)
    _require_known("method", benchmark.methods, METHODS)
    _require_known("protocol", benchmark.protocols, PROTOCOLS)
    asking = [name for name in benchmark.methods if name in WITH_PSEUDO_PROMPTS]
    if benchmark.interrogator == "none" and "rkme-concat" in asking:
        raise InputError(
            "the method 'rkme-concat' needs a pseudo-prompt, and interrogator is 'none'",
            hint="set interrogator = 'phrases', or leave the method out",
        )
    if benchmark.generator != "diffusion" and "rkme-basic" in benchmark.methods:
        raise InputError("the method 'rkme-basic' needs pictures, and this generator draws points")
    for what, names in (
        ("model", [entry.model for entry in benchmark.models]),
        ("name", [entry.label for entry in benchmark.models]),
    ):
        _require_once(what, names)
    for what, prompts in _prompt_lists(benchmark):
        _require_once(f"{what} prompt", prompts)
    evaluation, dev = benchmark.evaluation_prompts, benchmark.dev_prompts
    _require_apart("evaluation", evaluation, "default", benchmark.defaults)
    _require_apart("dev", dev, "default", benchmark.defaults)
    _require_apart("dev", dev, "evaluation", evaluation)
    shared = sorted(set(benchmark.seeds.dev) & set(benchmark.seeds.test))
    if shared:
        raise InputError(
            f"seed {shared[0]} belongs to dev and to test",
            hint="fitting must not see what is tested: give dev seeds of its own",
        )
    for protocol in benchmark.protocols:
        if not fits(benchmark, protocol):
            raise InputError(
                f"the protocol {protocol!r} needs more images of a model than prompts times seeds",
                hint="add evaluation and dev prompts or seeds, or leave the protocol out",
            )
    if not benchmark.protocols_of("dev"):
        raise InputError("no protocol is left to fit on", hint="add 'images-1' to the protocols")
    if benchmark.own_prompts:
        _check_own(benchmark)


def _prompt_lists(benchmark: Benchmark) -> Iterator[tuple[str, Sequence[str]]]:
    yield "default", benchmark.defaults
    yield "evaluation", benchmark.evaluation_prompts
    yield "dev", benchmark.dev_prompts
    for entry in benchmark.models:
        yield "own", entry.own
        yield "asked", entry.asked


def _check_own(benchmark: Benchmark) -> None:
    counts = {len(entry.own) for entry in benchmark.models}
    for entry in benchmark.models:
        if not entry.own or not entry.asked:
            raise InputError(
                f"the protocol 'own-prompts' needs own and asked prompts, {entry.model} lacks them",
                hint="add own = [...] and asked = [...] to the model, or leave the protocol out",
            )
        if len(counts) > 1:
            raise InputError("every model needs as many own prompts as the others")
        _require_apart("own", entry.own, "default", benchmark.defaults)
        _require_apart("asked", entry.asked, "default", benchmark.defaults)
        _require_apart("asked", entry.asked, "own", entry.own)


def fits(benchmark: Benchmark, protocol: str) -> bool:
    """Whether both splits have as many images of a model as one task of the protocol needs."""
    if protocol in OWN_PROMPTS:
        return True
    sizes = (
        len(benchmark.dev_prompts) * len(benchmark.seeds.dev),
        len(benchmark.evaluation_prompts) * len(benchmark.seeds.test),
    )
    return images_of(protocol) <= min(sizes)


def _require_known(what: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(
                f"there is no {what} named {name[:80]!r}", hint=f"one of {', '.join(known)}"
            )
    _require_once(what, names)


def _require_once(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"the {what} {twice[0]!r} stands there twice")


def _require_apart(first: str, ours: Sequence[str], second: str, theirs: Sequence[str]) -> None:
    known = {_folded(prompt) for prompt in theirs}
    shared = [prompt for prompt in ours if _folded(prompt) in known]
    if shared:
        raise InputError(
            f"the {first} prompt {shared[0]!r} is among the {second} prompts too",
            hint="prompts of different lists must not overlap: replace one of them",
        )


def _folded(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
