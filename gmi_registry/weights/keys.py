"""The names of a file's tensors, arranged to be searched by patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

from gmi_registry.weights.header import Tensor

__all__ = ["Keys", "compiled"]

# Numbers of layers, which would make a thousand names of one; not those within a word (attn2).
_NUMBER = re.compile(r"(?<=[._])\d+(?=[._]|$)", re.MULTILINE)
_LONGEST_TEXT = 1_000_000
_FIRST_NUMBER = re.compile(r"^\d+(?=\.)", re.MULTILINE)


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """``pattern`` with ``^`` and ``$`` for a name's ends, and ``#`` for the number of a layer."""
    return re.compile(pattern, re.MULTILINE)


class Keys:
    """Tensors by name. A pattern sees every name with ``#`` in place of the numbers of layers.

    So ``input_blocks.7.1.proj_in.weight`` is ``input_blocks.#.#.proj_in.weight``.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    @cached_property
    def forms(self) -> dict[str, str]:
        """The different names with ``#``, each with the first true name that is spelt so."""
        names = list(self.tensors)
        # A line end in a name would make two of it: no real name holds one.
        text = "\n".join(name.replace("\n", " ") for name in names)
        shapes = _FIRST_NUMBER.sub("#", _NUMBER.sub("#", text)).split("\n") if names else []
        found: dict[str, str] = {}
        for form, name in zip(shapes, names, strict=True):
            found.setdefault(form, name)
        return found

    @cached_property
    def _text(self) -> str:
        # Of real files a few kilobytes. What is cut off can only make a hostile file unknown.
        text = "\n".join(self.forms)
        return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT].rpartition("\n")[0]

    def has(self, *patterns: str) -> bool:
        """Whether each pattern is found in some name."""
        return all(compiled(pattern).search(self._text) for pattern in patterns)

    def has_any(self, *patterns: str) -> bool:
        """Whether one of the patterns is found in some name."""
        return any(compiled(pattern).search(self._text) for pattern in patterns)

    def tensor(self, pattern: str) -> Tensor | None:
        """The first tensor that has a name with the pattern in it."""
        found = compiled(pattern).search(self._text)
        if found is None:
            return None
        start = self._text.rfind("\n", 0, found.start()) + 1
        stop = self._text.find("\n", found.start())
        form = self._text[start : stop if stop >= 0 else None]
        return self.tensors[self.forms[form]]

    def size(self, pattern: str, axis: int) -> int | None:
        """One side of the first tensor of that name; None where there is none."""
        tensor = self.tensor(pattern)
        if tensor is None or not -len(tensor.shape) <= axis < len(tensor.shape):
            return None
        return tensor.shape[axis]

    def layers(self, pattern: str) -> int:
        """One more than the highest number where the pattern's only group is."""
        text = "\n".join(self.tensors)
        return 1 + max((int(it[1][:6]) for it in compiled(pattern).finditer(text)), default=-1)

    def below(self, *prefixes: str) -> Keys:
        """The tensors whose names begin with one of the prefixes, without it."""
        return Keys(
            {
                name[len(prefix) :]: tensor
                for name, tensor in self.tensors.items()
                for prefix in _first(name, prefixes)
            }
        )

    def share(self, prefix: str) -> float:
        """How many of the names begin with the prefix, 0 to 1."""
        count = sum(name.startswith(prefix) for name in self.tensors)
        return count / len(self.tensors) if self.tensors else 0.0


def _first(name: str, prefixes: Iterable[str]) -> list[str]:
    return next(([prefix] for prefix in prefixes if name.startswith(prefix)), [])
