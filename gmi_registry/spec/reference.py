"""Names of models, and the characters that no name or text of a specification may hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from gmi_registry.errors import InputError

HubName = Literal["hf", "civitai", "local"]

_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"(?:{_WORD}/)?{_WORD}")
_GIT_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_NUMBER = re.compile(r"[1-9][0-9]{0,14}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
# urn:air:{ecosystem}:{type}:{source}:{id}@{version}:{layer}.{format}; the number of a file may
# stand before the format. Ecosystems and types have hyphens by now, and people type capitals.
_AIR_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")
_AIR = re.compile(
    rf"(?:urn:)?air:{_AIR_WORD.pattern}:{_AIR_WORD.pattern}:({_AIR_WORD.pattern}):([^\s?#]+)",
    re.IGNORECASE,
)
_AIR_NUMBERS = re.compile(
    r"([1-9][0-9]{0,14})(?:@([1-9][0-9]{0,14}))?(?:\+[0-9]{1,15})?(?::[a-z0-9_-]{1,60})?"
    r"(?:\.[a-z]{1,20})?",
    re.IGNORECASE,
)
_FORMS = "write hf:owner/name, civitai:123@456 or local:name, with @revision where you have one"
_WEIGHTS = (".safetensors", ".gguf")
_PATTERN_MARKS = "*?"
_MOST_LETTERS = 200
_DEEPEST = 8
_SPEC_DIR = "gmi"

# Control characters, line and paragraph separators, bidirectional overrides and surrogates: a
# title is printed on terminals and in HTML, where these would let it forge what is around it.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def unprintable(text: str) -> str | None:
    """The first character of ``text`` that no field may hold, as U+XXXX, or None."""
    found = _UNPRINTABLE.search(text)
    return f"U+{ord(found.group()):04X}" if found else None


@dataclass(frozen=True, slots=True, order=True)
class ModelRef:
    """A model on a hub: ``hf:owner/name@sha``, ``civitai:123@456`` or ``local:name@digest``.

    ``revision`` is a git revision on hf, the version's number on civitai, 8 to 64 hex digits on
    local; None means whatever the hub serves now. ``file`` says which of several models in one
    repository on hf or folder on local is meant, as in ``hf:owner/name/style.safetensors@sha``: the
    path of a safetensors or GGUF file in it, or a pattern (``*v2*``) that the hub's names are
    compared with; None leaves that to the repository. Raises InputError when a part breaks its
    hub's rules.
    """

    hub: HubName
    id: str
    revision: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if self.hub not in get_args(HubName):
            raise InputError(f"{self.hub!r} is not a hub known here", hint=_FORMS)
        if not _id_is_valid(self.hub, self.id):
            raise InputError(
                f"{self.id[:120]!r} is not the name of a model on {self.hub}", hint=_FORMS
            )
        if self.revision is not None and not _revision_is_valid(self.hub, self.revision):
            raise InputError(
                f"{self.revision[:120]!r} is not a revision on {self.hub}", hint=_FORMS
            )
        if self.file is not None and not _file_is_valid(self.hub, self.id, self.file):
            raise InputError(
                f"{self.file[:120]!r} is not the name of a model's file in {self.hub}:{self.id}",
                hint=f"write {'local:name' if self.hub == 'local' else 'hf:owner/name'}/FILE"
                f"{_WEIGHTS[0]}, with @revision where you have one",
            )

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read what ``str()`` writes; an AIR (``urn:air:...``) is understood as well, where it
        names a model on Civitai or on Hugging Face. What else people paste is for
        :func:`.read_address`.

        Raises InputError for anything else.
        """
        air = _AIR.fullmatch(text)
        if air and air[1].lower() == "huggingface":
            return cls.parse(f"hf:{air[2]}")
        numbers = _AIR_NUMBERS.fullmatch(air[2]) if air else None
        if air and numbers and air[1].lower() == "civitai":
            return cls("civitai", numbers[1], numbers[2])
        hub, colon, rest = text.partition(":")
        if not colon or hub not in get_args(HubName):
            raise InputError(f"{text[:120]!r} does not begin with a hub", hint=_FORMS)
        identifier, at, revision = rest.partition("@")
        identifier, file = split_file(cast("HubName", hub), identifier)
        return cls(cast("HubName", hub), identifier, revision if at else None, file)

    @property
    def is_pattern(self) -> bool:
        """Whether ``file`` may stand for a file of another name."""
        return self.file is not None and any(mark in self.file for mark in _PATTERN_MARKS)

    def __str__(self) -> str:
        return (
            f"{self.hub}:{self.id}"
            + (f"/{self.file}" if self.file else "")
            + (f"@{self.revision}" if self.revision else "")
        )

    @property
    def is_entry(self) -> bool:
        """Whether one specification in a registry is meant: pinned to a version on civitai, on hf
        to the digest of the weights, 64 hex digits in the place of a revision. No commit looks like
        that, which has 40."""
        if self.revision is None or self.hub == "local":
            return False
        return self.hub == "civitai" or _SHA256.fullmatch(self.revision) is not None

    @property
    def is_pinned(self) -> bool:
        """Whether one state of the model is meant that cannot change, as searches print it: a
        commit or a digest, and not a branch or a tag."""
        return self.revision is not None and (
            self.hub == "civitai" or _DIGEST.fullmatch(self.revision) is not None
        )

    @property
    def without_revision(self) -> ModelRef:
        """The same model, whatever the hub serves now."""
        return ModelRef(self.hub, self.id, None, self.file)

    @property
    def identity(self) -> ModelRef:
        """What one specification is of: a version on civitai, elsewhere the model as it is now."""
        return self if self.hub == "civitai" else self.without_revision

    @property
    def repository(self) -> ModelRef:
        """Where the model and its specification lie, whatever else lies there."""
        return ModelRef(self.hub, self.id)

    def air(self, ecosystem: str, type: str) -> str:
        """Civitai's own resource name, ``urn:air:{ecosystem}:{type}:civitai:{model}@{version}``.

        ``ecosystem`` is e.g. ``sdxl`` and ``type`` e.g. ``lora``. Raises InputError for another
        hub, without a version, or for a word that is not lower-case letters, digits and hyphens.
        """
        if self.hub != "civitai" or self.revision is None:
            raise InputError(f"{self} has no AIR", hint="only civitai:MODEL@VERSION has one")
        for word in (ecosystem, type):
            if not _AIR_WORD.fullmatch(word):
                raise InputError(f"{word[:80]!r} cannot be part of an AIR", hint="e.g. sdxl, lora")
        return f"urn:air:{ecosystem}:{type}:civitai:{self.id}@{self.revision}"


def split_file(hub: HubName, text: str) -> tuple[str, str | None]:
    """A model's id, and the file in it that a name without revision goes on with, or None."""
    parts = text.split("/")
    own = {"hf": 2, "local": 1}.get(hub)
    if own is None or len(parts) <= own or not _names_file(text):
        return text, None
    return "/".join(parts[:own]), "/".join(parts[own:])


def _names_file(text: str) -> bool:
    return text.endswith(_WEIGHTS) or any(mark in text for mark in _PATTERN_MARKS)


def _id_is_valid(hub: HubName, identifier: str) -> bool:
    if hub == "civitai":
        return _NUMBER.fullmatch(identifier) is not None
    if hub == "local" and "/" in identifier and _names_file(identifier):
        return False  # it would read like a model and its file
    if len(identifier) > 96 or "--" in identifier or ".." in identifier:
        return False
    return _REPO_ID.fullmatch(identifier) is not None


def _revision_is_valid(hub: HubName, revision: str) -> bool:
    if hub == "civitai":
        return _NUMBER.fullmatch(revision) is not None
    if hub == "local":
        return _DIGEST.fullmatch(revision) is not None
    if len(revision) > 200 or any(bad in revision for bad in ("..", "//")):
        return False
    return not revision.endswith(("/", ".")) and _GIT_REVISION.fullmatch(revision) is not None


def _file_is_valid(hub: HubName, identifier: str, file: str) -> bool:
    # An id without an owner and a file would read like an owner and a name.
    parts = file.split("/")
    ending = next((end for end in _WEIGHTS if file.endswith(end)), "")
    return (
        (hub, "/" in identifier) in (("hf", True), ("local", False))
        and _names_file(file)
        and len(parts) <= _DEEPEST
        and all(parts)
        and len(ending) < len(parts[-1])
        and len(file) <= _MOST_LETTERS
        and not any(part.startswith(".") for part in parts)
        and parts[0] != _SPEC_DIR
        and not any(bad in file for bad in ("\\", ":", "@"))
        and unprintable(file) is None
        and file == file.strip()
    )
