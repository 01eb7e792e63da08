"""A small regeneration: no pictures are drawn, and everything else is real.

It asks the hub for the weights of today and for the specification that is there, and where they do
not agree it pushes a new one, through the same calls as a publication.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from pathlib import Path

from gmi_registry.errors import SpecNotFoundError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.protocol import is_stale
from gmi_registry.regeneration import Result
from gmi_registry.regeneration.webhook_service import check_result, work_off
from gmi_registry.spec import ModelRef, WeightFile, read_manifest, write_spec
from tests.support.hub_builder import ProjectionEncoder, style_spec

WEIGHTS = "pytorch_lora_weights.safetensors"


def card(title="Style"):
    return f"---\nlicense: mit\ntags:\n- anime\n---\n# {title}\n".encode()


class Regenerator:
    """``looks`` and ``made`` list the models that were looked at, and (model, digest) of those that
    were described. ``before_push`` is called before each push.
    """

    def __init__(self, loopback, token, *, before_push=lambda repo: None):
        self.hub = HuggingFaceHub(loopback.endpoint, token=token)
        self.looks, self.made = [], []
        self.before_push = before_push
        self._encoder = ProjectionEncoder()
        self._stop = threading.Event()
        self._thread = None

    def look(self, repo):
        self.looks.append(repo)
        ref = ModelRef("hf", repo)
        now = {path: digest for path, digest in self.hub.weight_digests(ref).items() if digest}
        if self._described(ref, now):
            return check_result([Result(str(ref), "fresh", "the same weights")])
        files = [WeightFile(path=path, size=1, sha256=digest) for path, digest in now.items()]
        self.before_push(repo)
        with tempfile.TemporaryDirectory() as scratch:
            spec = style_spec(self._encoder, repo, tuple(files), (200, 30, 30))
            where = self.hub.push_spec(ref, write_spec(spec, Path(scratch)))
        self.made.append((repo, now[WEIGHTS]))
        return check_result([Result(str(ref), "published", "weights changed", where=where)])

    def _described(self, ref, now):
        try:
            manifest = read_manifest(self.hub.fetch_spec(ref).parent, follow_links=True)
        except SpecNotFoundError:
            return False
        return is_stale(manifest.model.weights, now) is False

    def start(self, queue):
        """Work on ``queue`` in a thread, until :meth:`stop`."""
        settings = {"stop": self._stop, "poll": 0.01, "again": 0.05}
        self._thread = threading.Thread(target=work_off, args=(queue, self.look), kwargs=settings)
        self._thread.start()

    def stop(self):
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
            assert not self._thread.is_alive()
        self.hub.close()


def digest_of(content):
    return hashlib.sha256(content).hexdigest()
