"""A loopback hub, the real client and one author: what every run with faults starts from."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from gmi_registry import search
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.huggingface.client import ClientRequestCounter
from gmi_registry.search.result import SearchResult
from gmi_registry.spec import ModelRef, Spec, WeightFile, write_spec
from gmi_registry.spec.specification import encode_spec
from tests.support.fault_plan import Plan
from tests.support.hostile_specs import hostile_files
from tests.support.hub_builder import ProjectionEncoder, lora_of, picture, style_spec
from tests.support.loopback import LoopbackHub, User, fixtures

__all__ = ["BAD", "CARD", "COLOURS", "REF", "SECRET", "WEIGHTS_NAME", "World", "open_world"]

REF = ModelRef("hf", "alice/style")
WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
CARD = b"---\nlicense: mit\ntags:\n- anime\n---\n# Style\n"
SECRET, _STRANGERS = "hf_thisMustNeverBeSeen", "hf_norMustThisOneBeSeen"
COLOURS = {"red": (240, 20, 10), "green": (30, 200, 40), "blue": (20, 30, 230)}
BAD = "mallory/bad"
_FOUND = b"---\ntags: [gmi-spec, anime]\n---\n"
_WEIGHTS = lora_of(1.0)
_SHEET = b"a preview"
_HASTE = 0.25
_real_sleep = time.sleep


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    """A world whose runs keep their files below ``folder``. The client's waits pass at once."""
    with pytest.MonkeyPatch.context() as patch, LoopbackHub() as hub:
        fixtures.turn_client(patch, hub.endpoint, folder / "home")
        patch.setattr(time, "sleep", lambda seconds: _real_sleep(min(seconds, 0.001)))
        hub.add_user(User("alice", SECRET))
        hub.add_user(User("bob", _STRANGERS))
        with ClientRequestCounter():  # the client is made once, and not for each run
            yield World(hub, folder, patch)


class World:
    """``hub`` is the server; :meth:`begin` empties it for the next run."""

    def __init__(self, hub: LoopbackHub, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.hub = hub
        self.encoder = ProjectionEncoder()
        self._patch = patch
        self._room = folder / "run"
        self._token = SECRET
        self._workers = 1

    def begin(self, plan: Plan) -> None:
        """An empty hub and an empty disk, as the plan wants them; no fault yet."""
        shutil.rmtree(self._room, ignore_errors=True)
        self.cache.mkdir(parents=True)
        self.hub.clear()
        self.hub.failures.clear()
        state = self.hub.state
        state.page_size, state.xet_dir = plan.page_size, None
        if plan.xet:
            state.xet_dir = self._room / "xet"
            state.xet_dir.mkdir()
        self._patch.setattr(constants, "HF_HUB_DISABLE_XET", not plan.xet)
        self._token = SECRET if plan.owner or plan.stage == "search" else _STRANGERS
        self._workers = plan.workers

    @contextmanager
    def trouble(self, plan: Plan) -> Iterator[None]:
        """The plan's faults wait for the block's requests."""
        with pytest.MonkeyPatch.context() as patch:
            if plan.hasty:
                patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", _HASTE)
            for fault in plan.faults:
                self.hub.inject(fault)
            yield
            self.hub.clear_faults()

    @property
    def cache(self) -> Path:
        """Where this run's downloads and catalogues lie."""
        return self._room / "cache"

    def open(self, *, offline: bool = False) -> HuggingFaceHub:
        """The hub as a program that has just been started opens it."""
        return HuggingFaceHub(
            token=self._token, cache_dir=self.cache, offline=offline, workers=self._workers
        )

    def add_style(self, plan: Plan) -> None:
        """The model that a run publishes for."""
        files = {"README.md": CARD, WEIGHTS_NAME: _WEIGHTS}
        if plan.before == "old":
            spec = self._spec(REF.id, COLOURS["blue"], weight_files(_WEIGHTS))
            files |= _files(spec, preview=plan.sheets[0])
        elif plan.before == "hostile":
            files |= hostile_files(plan.case)
        self.hub.add_repo(REF.id, files)

    def add_gallery(self, plan: Plan) -> None:
        """One model a colour, and a bad one."""
        for name in COLOURS:
            self.hub.add_repo(
                f"alice/{name}", self.model_files(name), private=plan.private and name == "blue"
            )
        bad = {"README.md": _FOUND, WEIGHTS_NAME: _WEIGHTS, **hostile_files(plan.case)}
        self.hub.add_repo(BAD, bad)

    def model_files(self, name: str) -> dict[str, bytes]:
        """All that belongs into the repository of a colour."""
        weights = lora_of(2.0 + sorted(COLOURS).index(name))
        spec = self._spec(f"alice/{name}", COLOURS[name], weight_files(weights))
        return {"README.md": _FOUND, WEIGHTS_NAME: weights, **_files(spec)}

    def folder(self, weights: tuple[WeightFile, ...], *, preview: bool) -> Path:
        """A folder to publish: the specification of a model with these weights."""
        spec = self._spec(REF.id, COLOURS["red"], weights)
        name = weights[0].sha256[:8] + ("-sheet" if preview else "")
        return write_spec(spec, self._room / name, preview=_SHEET if preview else None)

    def search(self, hub: HuggingFaceHub) -> SearchResult:
        """For a red picture, by the score that knows one model at a time."""
        return search(
            [picture(COLOURS["red"], 99)],
            hub,
            score="paper",
            cache_dir=self.cache,
            encoder=self.encoder,
            workers=self._workers,
        )

    def _spec(self, name: str, colour: tuple[int, ...], weights: tuple[WeightFile, ...]) -> Spec:
        return style_spec(self.encoder, name, weights, colour)


def weight_files(content: bytes) -> tuple[WeightFile, ...]:
    digest = hashlib.sha256(content).hexdigest()
    return (WeightFile(path=WEIGHTS_NAME, size=len(content), sha256=digest),)


def _files(spec: Spec, *, preview: bool = False) -> dict[str, bytes]:
    manifest, tensors = encode_spec(spec)
    sheet = {"gmi/preview.webp": _SHEET} if preview else {}
    return {"gmi/spec.json": manifest, "gmi/spec.tensors": tensors, **sheet}
