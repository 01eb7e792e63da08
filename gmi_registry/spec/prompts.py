"""Sets of prompts, and the plain text files they are written in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.errors import InputError
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.reference import unprintable

MAX_PROMPT_LENGTH = 1000
"""Characters (Unicode code points) in one prompt."""

MAX_PROMPTS = 1000
"""Prompts in one set."""

_MAX_FILE_BYTES = 4 * MAX_PROMPT_LENGTH * MAX_PROMPTS
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class PromptSet:
    """An ordered list of prompts under a name; ``version`` counts its editions from 1.

    Raises InputError for a name other than letters, digits, ``.``, ``_`` and ``-``, for no
    prompts or more than 1,000, and for a prompt that is empty, padded, repeated, longer than
    1,000 characters or holds a control character.
    """

    name: str
    version: int
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not _SET_NAME.fullmatch(self.name):
            raise InputError(
                f"{self.name[:80]!r} cannot name a prompt set",
                hint="use up to 80 letters, digits, '.', '_' and '-', not beginning with a sign",
            )
        if self.version < 1:
            raise InputError(f"prompt set {self.name!r}: versions count from 1")
        if not 1 <= len(self.prompts) <= MAX_PROMPTS:
            raise InputError(
                f"prompt set {self.name!r} holds {len(self.prompts)} prompts",
                hint=f"a set has 1 to {MAX_PROMPTS} prompts",
            )
        seen: dict[str, int] = {}
        for number, prompt in enumerate(self.prompts, start=1):
            reason = _fault(prompt, number, seen)
            if reason:
                raise InputError(f"prompt set {self.name!r}, prompt {number}: {reason}")

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the canonical JSON array of the prompts, in order.

        Neither the name nor the version is hashed: the same prompts are the same set.
        """
        return canonical_digest(self.prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def from_file(cls, path: str | Path, *, name: str | None = None, version: int = 1) -> PromptSet:
        """Read UTF-8 text, one prompt a line; lines that begin with ``#`` are comments.

        ``name`` defaults to the file's stem. Raises InputError with file and line number for an
        unreadable, empty or non-UTF-8 file, a blank line between prompts, a line longer than
        1,000 characters, a control character and a prompt that appears twice.
        """
        path = Path(path)
        return cls(
            name=path.stem if name is None else name,
            version=version,
            prompts=_parse_lines(_read_text(path), path),
        )


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot read the prompts: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise InputError(
            f"{path}: larger than {_MAX_FILE_BYTES:,} bytes",
            hint=f"a set has at most {MAX_PROMPTS} prompts of {MAX_PROMPT_LENGTH} characters",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8", hint="save the file as UTF-8 text") from None


def _parse_lines(text: str, path: Path) -> tuple[str, ...]:
    prompts: list[str] = []
    seen: dict[str, int] = {}
    blank: int | None = None
    for number, raw in enumerate(text.split("\n"), start=1):
        prompt = raw.strip()
        if prompt.startswith("#"):
            continue
        if not prompt:
            blank = number if blank is None and prompts else blank
            continue
        if blank is not None:
            raise InputError(
                f"{path}:{blank}: a blank line between prompts",
                hint="delete the line, or make it a comment with '#'",
            )
        reason = _fault(prompt, number, seen)
        if reason:
            raise InputError(f"{path}:{number}: {reason}", hint="mend or delete the line")
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{path}: holds no prompts", hint="write one prompt a line")
    if len(prompts) > MAX_PROMPTS:
        raise InputError(f"{path}: holds {len(prompts):,} prompts, more than {MAX_PROMPTS:,}")
    return tuple(prompts)


def _fault(prompt: str, number: int, seen: dict[str, int]) -> str | None:
    if not prompt.strip():
        return "the prompt is empty"
    if prompt != prompt.strip():
        return "the prompt begins or ends with white space"
    if len(prompt) > MAX_PROMPT_LENGTH:
        return f"the prompt has {len(prompt):,} characters, more than {MAX_PROMPT_LENGTH:,}"
    character = unprintable(prompt)
    if character:
        return f"the prompt holds the control character {character}"
    first = seen.setdefault(prompt, number)
    if first != number:
        return f"the prompt already stands at {first}"
    return None
