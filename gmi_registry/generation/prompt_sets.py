"""The default prompt sets, which every model of a family answers so that answers compare."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import as_file, files

from gmi_registry.errors import InputError
from gmi_registry.generation.advice import Carded, advised
from gmi_registry.spec import PromptSet

__all__ = ["DEFAULT_PROMPT_SET", "default_prompt_set", "prompt_set_named", "prompt_set_names"]

DEFAULT_PROMPT_SET = "general-v1"
"""The set of every model whose card names no other."""

_FOLDER = files("gmi_registry.generation") / "prompts"
_FILE = re.compile(r"(?P<full>(?P<name>.+)-v(?P<version>[1-9][0-9]*))\.txt")


def prompt_set_names() -> tuple[str, ...]:
    """The names that :func:`prompt_set_named` knows, sorted."""
    found = (_FILE.fullmatch(entry.name) for entry in _FOLDER.iterdir())
    return tuple(sorted(match["full"] for match in found if match))


@cache
def prompt_set_named(name: str) -> PromptSet:
    """The set that this package carries under ``name``: ``general-v1`` or ``icons-v1``.

    The set's own name is the part before ``-v``, its version the number after it. Raises
    InputError for any other name.
    """
    known = prompt_set_names()
    if name not in known:
        raise InputError(
            f"there is no prompt set named {name[:80]!r}", hint=f"known sets: {', '.join(known)}"
        )
    match = _FILE.fullmatch(f"{name}.txt")
    assert match is not None
    with as_file(_FOLDER / f"{name}.txt") as path:
        return PromptSet.from_file(path, name=match["name"], version=int(match["version"]))


def default_prompt_set(model: Carded) -> PromptSet:
    """The set that the model's card names, else its base model's card, else ``general-v1``.

    Raises InputError where a card names a set that this package does not carry: another set in
    its place would make a specification that compares with none of its family.
    """
    return prompt_set_named(advised(model, "prompt_set") or DEFAULT_PROMPT_SET)
