"""The files of an encoder without torch: what each holds, how it is read, and how it is tried.

::

    encoder.json         what the encoder is, and the digest of every other file
    image.onnx           pixels float32 [B, 3, S, S] to embeddings float32 [B, D]
    text.onnx            tokens int64 [B, L] to embeddings float32 [B, E]
    merges.txt           the byte-pair vocabulary
    golden.safetensors   what torch makes of some pictures and texts: the reference vectors

What a graph of plain operators asks for is not seen from its bytes: forty additions of a tensor to
itself under another shape are more than any machine holds. So the first to run it is a process that
may be ended, with a bound on its time and its memory, and what it found is remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import mmap
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.encoders.encoder import ENCODER_NAME, EXPORT_AGAIN, LIMITS, FileName
from gmi_registry.errors import DigestMismatchError, GmiError, InputError, install_command

if TYPE_CHECKING:
    from gmi_registry.encoders.description import Description
    from gmi_registry.encoders.encoder import Encoder

CHECKER = 2
"""Version of what is accepted of a graph, and of the bytes that are written from it."""

ONNX_FOLDER = "onnx"
"""What the folder is called beside an encoder in open_clip's layout."""


def export_again() -> str:
    """The way out where an export cannot be run."""
    return f"export it again, or install what runs it: {install_command('torch')}"


class OnnxFolder:
    """The folder at ``path``, described by its ``encoder.json``, which is read at once.

    ``digest`` is the SHA-256 of that file, and so stands for them all. ``passed`` is what
    ``trials`` remember of these very files. Raises as
    :func:`~gmi_registry.encoders.description.parse_description`.
    """

    def __init__(self, path: Path, trials: Trials | None = None) -> None:
        self.path = path
        data = _read(path / ENCODER_NAME, LIMITS[ENCODER_NAME])
        self.digest = hashlib.sha256(data).hexdigest()
        self._trusted: dict[str, list[int]] = {}
        self._viewed: dict[str, list[int]] = {}
        self.passed = None if trials is None else trials.passed(self)
        if self.passed is not None:
            self.description = self.passed.description
            return
        # pydantic takes as long to import as a search.
        from gmi_registry.encoders.description import parse_description

        self.description = parse_description(data, path / ENCODER_NAME)

    def read(self, name: FileName, *, trusted: bool = False) -> bytes:
        """The content of a file.

        Raises InputError for one that is missing, a link or no file, DigestMismatchError for other
        bytes than ``encoder.json`` names; with ``trusted`` their number alone is compared, and
        with what :meth:`trust` was told.
        """
        entry = self.description.files[name]
        with _opened(self.path / name, entry.size) as stream:
            self._require_same(name, stream, trusted)
            data = stream.read()
        if len(data) != entry.size or not (
            trusted or hashlib.sha256(data).hexdigest() == entry.sha256
        ):
            raise self._other(name)
        return data

    def view(self, name: FileName, *, trusted: bool = False) -> memoryview:
        """The content of a file, mapped into memory and not copied. Raises as :meth:`read`.

        Whoever cuts the file short while it is mapped ends the process that reads it; a file that
        is replaced or deleted stays as it was.
        """
        entry = self.description.files[name]
        with _opened(self.path / name, entry.size) as stream:
            self._viewed[name] = self._require_same(name, stream, trusted)
            # Not by way of the mapping, whose pages would all count as this process's.
            if not trusted and hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                raise self._other(name)
            return memoryview(mmap.mmap(stream.fileno(), entry.size, access=mmap.ACCESS_READ))

    def stamp(self) -> dict[str, list[int]] | None:
        """Size, times and inode of every file, or None where one is not there."""
        try:
            return {name: _stamp((self.path / name).lstat()) for name in sorted(LIMITS)}
        except OSError:
            return None

    def trust(self, stamp: dict[str, list[int]]) -> None:
        """From now on a file that is read as trusted must have this ``stamp``."""
        self._trusted = stamp

    def require_viewed(self, name: FileName) -> None:
        """Raise DigestMismatchError unless the file is the one that :meth:`view` opened.

        For whoever had it opened by its name once more: what is swapped in between is not read.
        """
        try:
            found = _stamp((self.path / name).lstat())
        except OSError:
            found = None
        if found is None or found != self._viewed.get(name):
            raise self._other(name)

    def _require_same(self, name: FileName, stream: io.FileIO, trusted: bool) -> list[int]:
        found = _stamp(os.fstat(stream.fileno()))
        if found[0] != self.description.files[name].size or (
            trusted and self._trusted and found != self._trusted.get(name)
        ):
            raise self._other(name)
        return found

    def _other(self, name: FileName) -> DigestMismatchError:
        return DigestMismatchError(
            f"{self.path / name} is not the file that {ENCODER_NAME} names", hint=EXPORT_AGAIN
        )


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(path: Path, limit: int) -> bytes:
    with _opened(path, limit) as stream:
        return stream.read()


@contextlib.contextmanager
def _opened(path: Path, limit: int) -> Iterator[io.FileIO]:
    """A regular file, and no link: what comes from a hub may point anywhere."""
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link", hint="put the file itself there")
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        with io.FileIO(path, "rb", opener=lambda file, _: os.open(file, flags)) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is not a regular file", hint=EXPORT_AGAIN)
            if status.st_size > limit:
                raise InputError(
                    f"{path} has {status.st_size:,} bytes, more than {limit:,}", hint=EXPORT_AGAIN
                )
            yield stream
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", hint=EXPORT_AGAIN) from None


TOLERANCE = 1e-3
"""How far a row may be from its golden one, as a part of that one's length."""

_SIZES = ((64, 64), (97, 41), (40, 151), (300, 200), (33, 34))

REFERENCE_TEXTS = (
    "a red apple",
    "An ORANGE cat, 3 icons; isn't it neat?",
    "café – naïve ½ ☕ 日本語 &amp; & æther",
    " ".join(f"word{number}" for number in range(120)),
    "",
)


def reference_images() -> list[Image.Image]:
    """Five RGB pictures of odd sizes, with slopes, edges and fine patterns.

    The value of channel c in column x of row y is (x (7 + 4c) + y (13 - 3c) + floor(x y / (5 + c)))
    mod 256.
    """
    pictures = []
    for width, height in _SIZES:
        x, y, c = np.arange(width)[None, :, None], np.arange(height)[:, None, None], np.arange(3)
        values = (x * (7 + 4 * c) + y * (13 - 3 * c) + x * y // (5 + c)) % 256
        pictures.append(Image.fromarray(values.astype(np.uint8)))
    return pictures


def reference_embeddings(encoder: Encoder) -> dict[str, NDArray[np.float32]]:
    """What an encoder makes of them: ``image_embeddings`` [5, D], ``text_embeddings`` [5, E]."""
    return {
        "image_embeddings": encoder.encode_images(reference_images()),
        "text_embeddings": encoder.encode_texts(REFERENCE_TEXTS),
    }


def deviation(rows: NDArray[np.float32], golden: NDArray[np.float32]) -> float:
    """The largest distance between a row and its golden one, divided by the golden one's length.

    Infinite where shapes differ or a value is not finite.
    """
    if rows.shape != golden.shape or not (np.isfinite(rows).all() and np.isfinite(golden).all()):
        return float("inf")
    wide, exact = rows.astype(np.float64), golden.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1)
    if not (lengths > 0).all():
        return float("inf")
    return float((np.linalg.norm(wide - exact, axis=1) / lengths).max(initial=0.0))


Embeddings = dict[str, NDArray[np.float32]]

GraphDigests = dict[str, str]
"""SHA-256 (hex) of the bytes that are run, by the file that they were written from."""

Stamp = dict[str, list[int]]

# Clocks of file systems tick as coarsely as 2 s: within one tick a file may change unseen.
_TICK_NS = 2_000_000_000
# What the numbers depend on beside the files.
_LIBRARIES = ("ftfy", "numpy", "onnxruntime", "PIL", "regex")

_LONGEST_NOTE = 128 * 1024
_LARGEST_GRAPH = 8 * 1024 * 1024
_MAIN = "from gmi_registry.encoders.onnx import run_trial; run_trial()"
_REFUSED = 3
# Weights are a measure of the work: of ViT-L-14 (1.7 GB) the trial takes some 15 s on two cores.
_SECONDS, _BYTES_A_SECOND = 60.0, 8e6
# Beside the mapped weights. What lies at odd places in the files is copied, and more than once.
_MEMORY, _COPIES = 4 * 2**30, 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassedTrial:
    """What is remembered of an encoder that was found right: the ``digests`` of the bytes that were
    run, the ``description`` as it was read then, and the id of its reference."""

    digests: GraphDigests
    description: Description
    encoder_id: str


class _Fields(dict[str, Any]):
    """An object of JSON whose members are attributes as well, like those of a :class:`Description`
    that was checked."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


class Trials:
    """Notes in ``directory``, a small file each; deleting them at any time is safe.

    A note stands for files of certain sizes, times and inodes, under certain installations of the
    libraries that compute and a version of our own check. The graphs that were run lie beside it
    under their digests. A damaged file counts as none (:mod:`gmi_registry.atomic`): by wrong
    digests, right files would be refused for ever. Where none can be written, every load checks
    again.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def passed(self, folder: OnnxFolder) -> PassedTrial | None:
        """What was found of the files that lie there now, or None.

        ``folder`` then trusts these files, and none that come in their place.
        """
        stamp = folder.stamp()
        if stamp is None:
            return None
        data = read_sealed(self._note(folder, stamp), limit=_LONGEST_NOTE)
        try:
            found = json.loads(data or b"0", object_hook=_Fields)
            passed = PassedTrial(found.graphs, cast("Description", found.about), found.encoder_id)
        except (ValueError, AttributeError):
            return None
        if found.checker != CHECKER:
            return None
        folder.trust(stamp)
        return passed

    def before(self, folder: OnnxFolder) -> Stamp | None:
        """The stamp of files that are about to be tried; None where a later change could hide."""
        stamp = folder.stamp()
        if stamp is None or time.time_ns() - max(it[1] for it in stamp.values()) < _TICK_NS:
            return None
        return stamp

    def remember(
        self, folder: OnnxFolder, graphs: dict[FileName, bytes], stamp: Stamp | None
    ) -> None:
        """Note that files of that ``stamp`` were found right, run as ``graphs``.

        Nothing is noted of files that changed while they were tried.
        """
        if stamp is None or stamp != folder.stamp():
            return
        digests = {name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()}
        about = folder.description
        note = {
            "checker": CHECKER,
            "graphs": digests,
            "encoder_id": about.encoder.id,
            "about": about.known(),
        }
        try:
            for name, graph in graphs.items():
                self._keep(digests[name], graph)
            write_sealed(self._note(folder, stamp), json.dumps(note).encode())
        except OSError as error:
            _log.debug("cannot remember that an encoder was checked: %s", error)

    def mend(self, digest: str, graph: bytes) -> None:
        """Keep a graph of that digest again, which :meth:`graph` did not have."""
        try:
            self._keep(digest, graph)
        except OSError as error:
            _log.debug("cannot keep a graph that was checked: %s", error)

    def _keep(self, digest: str, graph: bytes) -> None:
        if len(graph) <= _LARGEST_GRAPH:
            write_sealed(self._graph(digest), graph)

    def graph(self, digest: str) -> bytes | None:
        """The bytes of that digest which were run, or None where they were not kept."""
        found = read_sealed(self._graph(digest), limit=_LARGEST_GRAPH)
        return found if found and hashlib.sha256(found).hexdigest() == digest else None

    def _graph(self, digest: str) -> Path:
        return self.directory / f"graph-{digest}"

    def _note(self, folder: OnnxFolder, stamp: Stamp) -> Path:
        libraries = [_installed(name) for name in _LIBRARIES]
        parts = [os.fspath(folder.path.absolute()), folder.digest, libraries, stamp, CHECKER]
        return self.directory / hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _installed(package: str) -> list[str | int] | None:
    """What changes when another version of a package is installed: to ask for the version itself
    means to read the metadata of all of them."""
    found = find_spec(package)
    if found is None or found.origin is None:
        return None
    status = Path(found.origin).stat()
    return [found.origin, status.st_size, status.st_mtime_ns, status.st_ino]


def try_encoder(folder: OnnxFolder, digests: GraphDigests, *, threads: int = 0) -> Embeddings:
    """:func:`reference_embeddings` of the encoder in ``folder``, worked
    out by another process, which runs the bytes of these digests and no others.

    It has a minute and more for larger weights and, where the system knows such a bound (Linux),
    4 GiB of memory and more beside the mapped weights. Raises InputError where the encoder cannot
    be run, and where that process needs more or does not come to an end.
    """
    import subprocess

    from safetensors import SafetensorError
    from safetensors.numpy import load

    weights = sum(entry.size for entry in folder.description.files.values())
    seconds = _SECONDS + weights / _BYTES_A_SECOND
    memory = _MEMORY + _COPIES * weights
    order = [os.fspath(folder.path.absolute()), digests, threads, seconds, memory]
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


def answer_trial(work: Callable[[OnnxFolder, GraphDigests, int], Embeddings]) -> None:
    """The process that tries: what to try from standard input, embeddings to standard output.

    ``work`` takes the folder, the digests and the threads, and runs the encoder.
    """
    where, digests, threads, seconds, memory = json.load(sys.stdin)
    _bound(seconds, memory)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed
    from safetensors.numpy import save

    try:
        answer, code = save(work(OnnxFolder(Path(where)), digests, threads)), 0
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
    return InputError(f"{folder.path}: the trial of this encoder {what}", hint=export_again())


def _named(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
