"""Textual inversions: words that a text encoder was taught, loaded with their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError
from gmi_registry.generation.lora_layers import (
    LoraFile,
    require_finite_tensors,
)
from gmi_registry.generation.model_checks import pickled, refused
from gmi_registry.model import ModelFiles
from gmi_registry.weights import identify_file

if TYPE_CHECKING:
    import torch


import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmi_registry.errors import InputError
from gmi_registry.generation.model_checks import error_line
from gmi_registry.spec import GenerationRecipe, PromptSet

if TYPE_CHECKING:
    import torch


_ATTRIBUTE = "_gmi_learned_words"

# What files call the vectors of each encoder. One without such a name is for the only one.
_ENCODERS = {
    "clip_l": 0, "text_encoders_0": 0, "clip_g": 1, "text_encoders_1": 1, "t5": 2, "t5xxl": 2,
}  # fmt: skip
_ONLY = frozenset({"emb_params", "string_to_param", "*", "learned_embeds", "embedding"})
_BUNDLED = re.compile(
    r"^bundle_emb\.(?P<token>[^\n]{1,200}?)\.(?P<rest>string_to_param\.\*|[\w]+)$"
)
_NUMBERED = re.compile(r"<s\d+>")
_NEGATIVE = re.compile(
    r"negative|deepneg|(?:^|[_\W\d])neg(?=[_\W\d]|xl|$)|unaesthetic|worst|(?:^|[_\W])ng[_\W]|"
    r"unrealisticdream|(?:^|[_\W]|very)bad"
    r"(?=[_\W\d]|hand|artist|prompt|dream|pic|image|anatomy|quality|x[_\W\d]|v\d|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LearnedWords:
    """Words that a pipeline's text encoders were taught, as prompts have to spell them.

    Those that ``negative`` holds are for negative prompts. ``replaced`` are words of the files
    that prompts spell in another way, or that are for negative prompts.
    """

    words: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def learned_words(pipeline: Any) -> LearnedWords:
    """The words that :func:`load_embeddings` has taught the pipeline."""
    words: LearnedWords = getattr(pipeline, _ATTRIBUTE, LearnedWords())
    return words


def require_words_used(
    pipeline: Any, model: ModelFiles, recipe: GenerationRecipe, prompt_sets: Iterable[PromptSet]
) -> None:
    """Raise InputError where no text that ``recipe`` gives the pipeline holds a word which the
    textual inversion ``model`` teaches: the images would be those of its base."""
    if model.kind != "textual-inversion":
        return
    learned = learned_words(pipeline)
    words = (*learned.words, *learned.negative)
    prompts = (recipe.render(prompt) for it in prompt_sets for prompt in it.prompts)
    texts = (recipe.negative_prompt, *prompts)
    if any(word.lower() in text.lower() for text in texts for word in words):
        return
    way = "--guidance above 1, and no other --negative-prompt"
    if learned.words:
        way = "no other --trigger-word, or shorter prompts (--prompts FILE)"
    raise InputError(
        f"{model.ref}: its word {words[0] if words else ''!r} is in no prompt, so the images "
        f"would be those of its base model",
        hint=f"give {way}; or write the word in one of them",
    )


def embeddings_of(
    tensors: Mapping[str, torch.Tensor],
    name: str,
    *,
    words: Sequence[str] = (),
    beside_lora: bool = False,
) -> dict[str, dict[str, torch.Tensor]]:
    """The vectors in ``tensors``, by the word that they belong to and the encoder that reads them.

    The word is the one that the file names; else the first of ``words`` (the card's), else the name
    of the file. The files of pivotal tuning (``beside_lora``, or where the card writes so) hold one
    vector each of the words ``<s0>``, ``<s1>``, ...

    Encoders go by their key in the file, ``""`` for the only one. ``name`` is the file's.
    """
    stem = PurePosixPath(name).stem
    numbered = beside_lora or any(_NUMBERED.search(word) for word in words)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        vectors = value.float()
        vectors = vectors[None] if vectors.dim() == 1 else vectors
        bundled = _BUNDLED.match(key)
        if bundled is not None:
            rest = bundled["rest"]
            encoder = "" if rest.startswith("string_to_param") else rest
            found.setdefault(bundled["token"], {})[encoder] = vectors
        elif key in _ENCODERS and numbered:
            for row, vector in enumerate(vectors):
                found.setdefault(f"<s{row}>", {})[key] = vector[None]
        elif key in _ENCODERS:
            found.setdefault(_word(words, stem), {})[key] = vectors
        elif key.split(".")[0] in _ONLY:
            found.setdefault(_word(words, stem), {})[""] = vectors
        else:
            found.setdefault(key, {})[""] = vectors
    return found


def _word(words: Sequence[str], stem: str) -> str:
    short = [word for word in words if len(word.split()) == 1 and "," not in word]
    return short[0] if short else stem


def load_embeddings(
    pipeline: Any, who: str, found: Mapping[str, Mapping[str, torch.Tensor]], *, name: str = ""
) -> list[str]:
    """Teach the encoders of ``pipeline`` the words in ``found``; notes for people.

    ``who`` is for messages; ``name``, of the file, tells a word for negative prompts. Raises
    GenerationError for a pipeline that cannot be taught words, and for vectors that do not fit.
    """
    if not hasattr(pipeline, "load_textual_inversion"):
        raise GenerationError(
            f"{who}: a textual inversion, and a {type(pipeline).__name__} cannot learn words",
            hint="publish it with the base model that it was made for: SD 1.5, SD 2 or SDXL",
        )
    encoders = _encoders(pipeline)
    before = learned_words(pipeline)
    words, negative, replaced = list(before.words), list(before.negative), list(before.replaced)
    notes: list[str] = []
    for word, vectors in found.items():
        spelled = _spelled(word, encoders)
        if spelled != word:
            replaced.append(word)
            notes.append(
                f"the text encoder already knows the word {word!r}, or cannot read it, so the "
                f"embedding is called {spelled!r}"
            )
        _teach(pipeline, who, spelled, word, vectors, encoders)
        if _NEGATIVE.search(word) or _NEGATIVE.search(PurePosixPath(name).stem):
            negative.append(spelled)
            replaced.append(word)
            notes.append(
                f"{spelled!r} is treated as an embedding for negative prompts because of its "
                f"name (a guess)"
            )
        else:
            words.append(spelled)
    setattr(pipeline, _ATTRIBUTE, LearnedWords(tuple(words), tuple(negative), tuple(replaced)))
    return notes


def _encoders(pipeline: Any) -> list[tuple[Any, Any, str]]:
    """Tokenizers and text encoders that learn words: the CLIPs in their order, then a T5."""
    clips: list[tuple[Any, Any, str]] = []
    others: list[tuple[Any, Any, str]] = []
    for number in ("", "_2", "_3"):
        tokenizer = getattr(pipeline, f"tokenizer{number}", None)
        encoder = getattr(pipeline, f"text_encoder{number}", None)
        if tokenizer is None or encoder is None:
            continue
        kind = type(encoder).__name__
        entry = (tokenizer, encoder, f"text_encoder{number}")
        if kind.startswith("CLIPText"):
            clips.append(entry)
        elif "T5" in kind:
            others.append(entry)
    return clips + others


def _spelled(word: str, encoders: Sequence[tuple[Any, Any, str]]) -> str:
    """How prompts spell ``word``: as it is where it is new, else in pointed brackets.

    Tokenizers of CLIP lower all letters, and split at blanks and at some signs.
    """
    plain = re.sub(r"[^a-z0-9_.<>-]+", "-", word.lower()).strip("-") or "embedding"
    for tokenizer, _, _ in encoders:
        known = tokenizer.get_vocab()
        if any(form in known for form in (plain, f"{plain}</w>", f"{plain}_1")):
            return f"<{plain.strip('<>')}-embedding>"
    return plain


def _teach(
    pipeline: Any,
    who: str,
    word: str,
    title: str,
    vectors: Mapping[str, torch.Tensor],
    encoders: Sequence[tuple[Any, Any, str]],
) -> None:
    clips = [entry for entry in encoders if type(entry[1]).__name__.startswith("CLIPText")]
    rest = [entry for entry in encoders if entry not in clips]
    if "" in vectors and len(clips) > 1:
        raise GenerationError(
            f"{who}: {title!r} has vectors for one text encoder, and its base has {len(clips)}",
            hint="it was made for SD 1.5 or SD 2: correct base_model in the model card, or give "
            "--base REPO",
        )
    taught: set[str] = set()
    for key, value in vectors.items():
        place = _ENCODERS.get(key, 0)
        chosen = rest[:1] if place == 2 else clips[place : place + 1]
        if not chosen:
            raise GenerationError(
                f"{who}: {title!r} has vectors for a text encoder that its base lacks ({key})",
                hint="correct base_model in the model card, or give --base REPO",
            )
        tokenizer, encoder, part = chosen[0]
        width = int(encoder.get_input_embeddings().weight.shape[-1])
        if value.dim() != 2 or value.shape[-1] != width:
            raise GenerationError(
                f"{who}: {title!r} has vectors of {value.shape[-1]} numbers, and the {part} of its "
                f"base reads {width}",
                hint="it was made for another base model: correct base_model in the model card, or "
                "give --base REPO",
            )
        if not bool(value.any()):
            raise GenerationError(
                f"{who}: {title!r} has no effect: its vectors are 0",
                hint="publish the file that the training wrote at its end",
            )
        try:
            pipeline.load_textual_inversion(
                value, token=word, tokenizer=tokenizer, text_encoder=encoder
            )
            read = pipeline.maybe_convert_prompt(word, tokenizer)
            ids = tokenizer(read, add_special_tokens=False).input_ids
        except Exception as error:
            raise GenerationError(
                f"{who}: {title!r} cannot be added to the {part} of its base: {error_line(error)}",
                hint="publish a textual inversion for SD 1.5, SD 2 or SDXL",
            ) from error
        table = encoder.get_input_embeddings().weight.detach()
        learned = value.to(table)
        if len(ids) != len(learned) or not bool((table[ids] == learned).all()):
            raise GenerationError(
                f"{who}: the text encoder does not read {word!r} as one word",
                hint="name the word in the card's trigger words, in lower-case letters and digits",
            )
        taught.add(part)
    untaught = [part for _, _, part in clips if part not in taught]
    if untaught:
        raise GenerationError(
            f"{who}: {title!r} has no vectors for the {untaught[0]} of its base",
            hint="it was made for another base model: correct base_model in the model card, or "
            "give --base REPO",
        )


def weight_path(model: ModelFiles, weight: str) -> Path:
    return model.path / weight if model.path.is_dir() else model.path


def apply_textual_inversion(pipeline: Any, model: ModelFiles) -> list[str]:
    """Teach the text encoders of ``pipeline`` the words of the textual inversion ``model``.

    Returns notes for people. Raises GenerationError for a base that cannot be taught words, and for
    vectors of another width than its text encoders'.
    """
    notes: list[str] = []
    for name in inversion_files(model):
        tensors = _embedding_tensors(model, name)
        found = embeddings_of(tensors, name, words=model.card.trigger_words)
        notes += load_embeddings(pipeline, str(model.ref), found, name=name)
    return notes


def load_words(
    pipeline: Any, model: ModelFiles, weight: str, file: LoraFile
) -> tuple[list[str], set[str]]:
    """Load the textual inversions in the LoRA's file and beside it; notes, and what was loaded."""
    notes: list[str] = []
    words = model.card.trigger_words
    if file.embeddings:
        inside = {key: file.tensors[key] for key in file.embeddings}
        found = embeddings_of(inside, weight, words=words, beside_lora="clip_l" in inside)
        notes += load_embeddings(pipeline, str(model.ref), found)
    for name in _embedding_files(model, weight):
        tensors = _embedding_tensors(model, name)
        found = embeddings_of(tensors, name, words=words, beside_lora=True)
        notes += load_embeddings(pipeline, str(model.ref), found)
        notes.append(f"{name} is loaded, too: {', '.join(found)}")
    return notes, set(file.embeddings)


def _embedding_tensors(model: ModelFiles, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(weight_path(model, name))
    except (SafetensorError, OSError, ValueError) as error:
        raise refused(model, f"{name} cannot be read", error) from error
    require_finite_tensors(f"{model.ref}: {name}", tensors)
    return tensors


def _embedding_files(model: ModelFiles, weight: str) -> list[str]:
    """Files with textual inversions beside a LoRA, as pivotal tuning writes them."""
    if not model.path.is_dir():
        return []
    folder = PurePosixPath(weight).parent
    paths = (entry.path for entry in model.weights)
    return [
        path
        for path in paths
        if path != weight
        and PurePosixPath(path).parent == folder
        and is_embedding_file(model, path)
    ]


def is_embedding_file(model: ModelFiles, path: str) -> bool:
    if not path.lower().endswith(".safetensors"):
        return False
    return identify_file(model.path / path).kind == "textual-inversion"


def inversion_files(model: ModelFiles) -> list[str]:
    names = [weight.path for weight in model.weights]
    safe = [name for name in names if name.lower().endswith(".safetensors")]
    if not safe:
        raise pickled(model, names[0] if names else model.path.name)
    return safe
