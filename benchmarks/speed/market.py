"""The search of the package ``learnware``, in a process and an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

_PROGRAM = Path(__file__).with_name("learnware_search.py")


class Market:
    """``images`` [M, N, D] and ``query`` [D] in a process of ``python``, which has that package.

    ``versions`` are those found there. Raises SystemExit where the process ends too soon.
    """

    def __init__(
        self, python: Path, images: np.ndarray, query: np.ndarray, gamma: float, threads: int
    ) -> None:
        self._python = python
        self._folder = tempfile.TemporaryDirectory()
        place = Path(self._folder.name)
        np.save(place / "images.npy", images)
        np.save(place / "query.npy", query)
        # It makes folders in the home directory, and would look for a hub.
        surroundings = os.environ | {
            "HOME": self._folder.name,
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._told = place / "told.txt"
        try:
            with self._told.open("w", encoding="utf-8") as told:
                self._process = subprocess.Popen(
                    [python, _PROGRAM, place, str(gamma), str(threads)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=told,
                    env=surroundings,
                    text=True,
                )
        except OSError as error:
            raise self._failed(str(error)) from None
        self.versions: dict[str, str] = json.loads(self._answer())

    def __enter__(self) -> Market:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def ranked(self, work: str) -> tuple[list[int], list[float]]:
        """The first ten rows and their distances, by ``ranking`` or by ``search``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{work}\n")
        self._process.stdin.flush()
        rows, distances = json.loads(self._answer())
        return rows, distances

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            told = self._told.read_text(encoding="utf-8").strip().splitlines()
            raise self._failed(told[-1] if told else "it said nothing")
        return line

    def _failed(self, reason: str) -> SystemExit:
        self._folder.cleanup()
        return SystemExit(
            f"{self._python} cannot run learnware ({reason}): in an environment of its own, "
            "pip install learnware torch, and name its python by --learnware"
        )
