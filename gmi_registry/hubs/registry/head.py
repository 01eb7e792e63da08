"""The commit at which the registry stands."""

from __future__ import annotations

import time

from gmi_registry.errors import AuthError, GmiError, SpecNotFoundError
from gmi_registry.hubs.registry.dataset import Dataset

__all__ = ["Head"]

_MOMENT = 10.0


class Head:
    """The head of ``dataset``, of which one search that asks for it twice is told once."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._known: tuple[float, str | GmiError] | None = None

    def glance(self) -> str:
        """The commit as it was in the last ten seconds, as :meth:`.Dataset.head` gives it.

        That there is no such dataset is remembered for as long, and raised again.
        """
        now = time.monotonic()
        if self._known is None or now - self._known[0] > _MOMENT:
            try:
                self._known = now, self._dataset.head()
            except (SpecNotFoundError, AuthError) as error:
                self._known = now, error
        commit = self._known[1]
        if isinstance(commit, str):
            return commit
        raise commit
