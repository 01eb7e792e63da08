"""What a benchmark must not do, such as ask with a prompt that its specifications answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from gmi_registry.bench.method import METHODS, WITH_PSEUDO_PROMPTS
from gmi_registry.bench.pair import PAIR
from gmi_registry.bench.protocol import OWN_PROMPTS, PROTOCOLS, images_of
from gmi_registry.encoders import EncoderName
from gmi_registry.errors import InputError
from gmi_registry.interrogators import MODES

if TYPE_CHECKING:
    from gmi_registry.bench.file import Benchmark

__all__ = ["check_rules", "fits"]

_WITH_COMMON_SPACE = ("phrases", "clip_interrogator")


def check_rules(benchmark: Benchmark) -> None:
    """Raise InputError for the first rule that the benchmark breaks."""
    encoder = EncoderName.parse(benchmark.encoder)
    _require_known("interrogator", [benchmark.interrogator], MODES)
    _require_known("method", benchmark.methods, METHODS)
    _require_known("protocol", benchmark.protocols, PROTOCOLS)
    if encoder == PAIR and benchmark.interrogator in _WITH_COMMON_SPACE:
        raise InputError(
            f"the interrogator {benchmark.interrogator!r} compares pictures with texts, and the "
            f"towers of {PAIR} have no common space",
            hint="set interrogator = 'none'; methods called -ground-truth need no interrogator",
        )
    asking = [name for name in benchmark.methods if name in WITH_PSEUDO_PROMPTS]
    if benchmark.interrogator == "none" and "rkme-concat" in asking:
        raise InputError(
            "the method 'rkme-concat' needs a pseudo-prompt, and interrogator is 'none'",
            hint="set interrogator = 'phrases', or leave the method out",
        )
    if benchmark.generator == "example-2.1" and "rkme-basic" in benchmark.methods:
        raise InputError("the method 'rkme-basic' needs pictures, and this generator draws points")
    _check_pictures(benchmark)
    for what, names in (
        ("model", [entry.model for entry in benchmark.models]),
        ("name", [entry.label for entry in benchmark.models]),
    ):
        _require_once(what, names)
    for what, prompts in _prompt_lists(benchmark):
        _require_once("words" if what == "words" else f"{what} prompt", prompts)
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
    if len({len(entry.words) for entry in benchmark.models}) > 1:
        raise InputError(
            "every model needs as many words as the others",
            hint="give each model the same number of wordings, or none",
        )


def _check_pictures(benchmark: Benchmark) -> None:
    if benchmark.generator != "pictures":
        if benchmark.pictures is not None:
            raise InputError(
                "the field 'pictures' is for the generator 'pictures' alone",
                hint="set generator = 'pictures', or leave the field out",
            )
        return
    if benchmark.pictures is None:
        raise InputError(
            "the generator 'pictures' needs a folder with a folder of pictures for each model",
            hint="add pictures = 'PATH' to the benchmark file",
        )
    said = benchmark.recipe.model_dump(exclude_none=True)
    if not {"width", "height"} <= set(said):
        raise InputError(
            "the generator 'pictures' needs the size in which pictures are compared",
            hint="add width and height to [recipe]",
        )
    for name in said:
        if name not in {"width", "height"}:
            raise InputError(
                f"the recipe's {name!r} means nothing to pictures that are drawn already",
                hint="leave width and height alone in [recipe]",
            )


def _prompt_lists(benchmark: Benchmark) -> Iterator[tuple[str, Sequence[str]]]:
    yield "default", benchmark.defaults
    yield "evaluation", benchmark.evaluation_prompts
    yield "dev", benchmark.dev_prompts
    for entry in benchmark.models:
        yield "own", entry.own
        yield "asked", entry.asked
        yield "words", entry.words


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
