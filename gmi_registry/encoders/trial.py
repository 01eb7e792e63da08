"""The one trial of an exported encoder on this machine: in a process of its own, and remembered.

What a graph of plain operators asks for is not seen from its bytes: forty additions of a tensor to
itself under another shape are more than any machine holds. So the first to run it is a process that
may be ended, with a bound on its time and its memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.encoders.graph import CHECKER
from gmi_registry.encoders.layout import OnnxFolder
from gmi_registry.errors import GmiError, InputError

__all__ = ["Outlines", "Trials", "answer_trial", "try_encoder"]

Embeddings = dict[str, NDArray[np.float32]]

Outlines = dict[str, str]
"""SHA-256 (hex) of the bytes that are run, by the file that they were written from."""

Stamp = dict[str, list[int]]

# Clocks of file systems tick as coarsely as 2 s: within one tick a file may change unseen.
_TICK_NS = 2_000_000_000
# What the numbers depend on beside the files.
_LIBRARIES = ("ftfy", "numpy", "onnxruntime", "pillow", "regex")

_LONGEST_NOTE = 4096
_MAIN = "from gmi_registry.encoders.onnx import run_trial; run_trial()"
_REFUSED = 3
# Weights are a measure of the work: of ViT-L-14 (1.7 GB) the trial takes some 15 s on two cores.
_SECONDS, _BYTES_A_SECOND = 60.0, 8e6
# Beside the mapped weights. What lies at odd places in the files is copied, and more than once.
_MEMORY, _COPIES = 4 * 2**30, 4
_AGAIN = "export it again, or install what runs it: pip install 'gmi-registry[torch]'"

_log = logging.getLogger(__name__)


class Trials:
    """Notes in ``directory``, a small file each; deleting them at any time is safe.

    A note stands for files of certain sizes, times and inodes, under certain versions of the
    libraries that compute and of our own check. It holds the digests of the bytes that were run. A
    damaged one counts as none (:mod:`gmi_registry.atomic`): by wrong digests, right files would be
    refused for ever. Where none can be written, every load checks again.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def passed(self, folder: OnnxFolder) -> Outlines | None:
        """What was run of the files that lie there now and found right, or None.

        ``folder`` then trusts these files, and none that come in their place.
        """
        stamp = folder.stamp()
        if stamp is None:
            return None
        try:
            found = json.loads(read_sealed(self._note(folder, stamp), limit=_LONGEST_NOTE) or b"0")
        except ValueError:
            return None
        outlines = found.get("outlines") if isinstance(found, dict) else None
        if not isinstance(outlines, dict) or found.get("checker") != CHECKER:
            return None
        folder.trust(stamp)
        return outlines

    def before(self, folder: OnnxFolder) -> Stamp | None:
        """The stamp of files that are about to be tried; None where a later change could hide."""
        stamp = folder.stamp()
        if stamp is None or time.time_ns() - max(it[1] for it in stamp.values()) < _TICK_NS:
            return None
        return stamp

    def remember(self, folder: OnnxFolder, outlines: Outlines, stamp: Stamp | None) -> None:
        """Note that files of that ``stamp`` were found right, run as ``outlines``.

        Nothing is noted of files that changed while they were tried.
        """
        if stamp is None or stamp != folder.stamp():
            return
        text = json.dumps({"checker": CHECKER, "outlines": outlines})
        try:
            write_sealed(self._note(folder, stamp), text.encode())
        except OSError as error:
            _log.debug("cannot remember that an encoder was checked: %s", error)

    def _note(self, folder: OnnxFolder, stamp: Stamp) -> Path:
        libraries = [version(name) for name in _LIBRARIES]
        parts = [os.fspath(folder.path.absolute()), folder.digest, libraries, stamp, CHECKER]
        return self.directory / hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def try_encoder(folder: OnnxFolder, outlines: Outlines, *, threads: int = 0) -> Embeddings:
    """:func:`~gmi_registry.encoders.golden.golden_embeddings` of the encoder in ``folder``, worked
    out by another process, which runs the bytes of these digests and no others.

    It has a minute and more for larger weights and, where the system knows such a bound (Linux),
    4 GiB of memory and more beside the mapped weights. Raises InputError where the encoder cannot
    be run, and where that process needs more or does not come to an end.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    weights = sum(entry.size for entry in folder.description.files.values())
    seconds = _SECONDS + weights / _BYTES_A_SECOND
    memory = _MEMORY + _COPIES * weights
    order = [os.fspath(folder.path.absolute()), outlines, threads, seconds, memory]
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)  # as it is here
    few = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # numpy's, each with its memory
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _MAIN],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
            env={**os.environ, "PYTHONPATH": path, **few},
        )
    except subprocess.TimeoutExpired:
        raise _failed(folder, f"did not come to an end in {seconds:.0f} seconds") from None
    except OSError as error:
        raise _failed(folder, f"could not be started: {error.strerror or error}") from None
    if done.returncode == _REFUSED:
        message, hint = json.loads(done.stdout)
        raise InputError(message, hint=hint)
    if done.returncode != 0:
        last = done.stderr[-300:].decode("utf-8", "replace").rstrip().rpartition("\n")[2]
        said = "".join(letter for letter in last if letter.isprintable())
        raise _failed(
            folder,
            f"ended with {_named(done.returncode)}, within {memory / 2**30:.1f} GiB of memory: "
            f"{said or 'it said nothing'}",
        )
    try:
        found = load(done.stdout)
    except SafetensorError:
        found = {}
    if found.keys() != {"image_embeddings", "text_embeddings"}:
        raise _failed(folder, "gave no embeddings")
    return found


def answer_trial(work: Callable[[OnnxFolder, Outlines, int], Embeddings]) -> None:
    """The process that tries: what to try from standard input, embeddings to standard output.

    ``work`` takes the folder, the digests and the threads, and runs the encoder.
    """
    where, outlines, threads, seconds, memory = json.load(sys.stdin)
    _bound(seconds, memory)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed
    from safetensors.numpy import save

    try:
        answer, code = save(work(OnnxFolder(Path(where)), outlines, threads)), 0
    except GmiError as error:
        answer, code = json.dumps([error.message, error.hint]).encode(), _REFUSED
    with os.fdopen(answers, "wb") as stream:
        stream.write(answer)
    os._exit(code)  # a run that was given up may still hold a thread


def _bound(seconds: float, memory: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    # Who waits for this process ends it after that time; this is for when nobody waits any more.
    most = int(seconds * (os.cpu_count() or 1)) + 1
    for kind, limit in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, most)):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, hard))


def _failed(folder: OnnxFolder, what: str) -> InputError:
    return InputError(f"{folder.path}: the trial of this encoder {what}", hint=_AGAIN)


def _named(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
