"""CLIP and its kin without torch: two ONNX files, run by onnxruntime."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.encoders.golden import TOLERANCE, deviation, golden_embeddings
from gmi_registry.encoders.graph import check_graph
from gmi_registry.encoders.layout import OnnxFolder
from gmi_registry.encoders.outline import outline_of
from gmi_registry.encoders.pixels import Pixels
from gmi_registry.encoders.trial import Outlines, Trials, answer_trial, try_encoder
from gmi_registry.encoders.wording import ClipTokens, split_merges
from gmi_registry.errors import DigestMismatchError, InputError
from gmi_registry.spec import EncoderRef

__all__ = ["OnnxEncoder", "run_trial"]

_AGAIN = "export it again, or install what runs it: pip install 'gmi-registry[torch]'"

_FOLDER = "session.model_external_initializers_file_folder_path"

_TowerName = Literal["image.onnx", "text.onnx"]
_TOWERS: tuple[_TowerName, ...] = ("image.onnx", "text.onnx")

# Bounds of one run, which no honest encoder comes near: of ViT-L-14 (1.2 GB) an image takes 2 s and
# some 50 MB beside the weights.
_SECONDS, _BYTES_A_SECOND = 60.0, 4e7
# Weights of two bytes (--half) are widened in it: 4 GB for ViT-H-14, which is the largest known.
_MOST_MEMORY = 12 * 2**30
_SHARE_OF_MACHINE = 0.75
# What the runtime says of its own bound, and of the system's.
_NO_MEMORY = ("BFCArena", "bad_alloc", "bad allocation")

_log = logging.getLogger(__name__)


class OnnxEncoder:
    """An :class:`~gmi_registry.encoders.Encoder` in the files of one folder, each read when needed.

    Weights are mapped where they lie, so the files may be replaced while it works, but not cut. It
    computes in float32 on the processor. Its reference is that of the encoder it was exported
    from, whose embeddings its own equal to a thousandth of their length. ``threads`` 0 is one for
    each core.
    """

    def __init__(
        self,
        folder: OnnxFolder,
        *,
        trusted: bool,
        outlines: Outlines | None = None,
        batch_size: int = 32,
        threads: int = 0,
    ) -> None:
        """``trusted`` compares no digests of files; ``outlines`` are all that may be run, if given.

        Nothing is read here but the description: files that are refused are so when first used.
        """
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} holds nothing", hint="use 1 or more")
        self.batch_size = batch_size
        self._folder = folder
        self._about = folder.description
        self._trusted = trusted
        self._outlines = outlines
        self._written: dict[_TowerName, bytes] = {}
        self._threads = threads
        self._pixels = Pixels(self._about.encoder.preprocess, self._about.fill_color)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        memory: Path | None = None,
        batch_size: int = 32,
        threads: int = 0,
    ) -> OnnxEncoder:
        """The encoder in a folder that ``gmi encoder export`` made, once it has passed its check.

        The digests of all files are compared, and what it makes of some pictures and texts, in a
        process of its own, with what torch made of them. That it passed is noted in ``memory``,
        with the digests of the graphs that were run, and not tried again while the files stay as
        they are; None notes nothing.

        Raises InputError for a folder that is incomplete or malformed, for an ONNX file that needs
        other files or unusual operators, and for an encoder that does not pass, or not in bounded
        time and memory; DigestMismatchError for files that were changed; UnsupportedVersionError
        for a newer layout.
        """
        folder = OnnxFolder(Path(path))
        trials = None if memory is None else Trials(memory)
        outlines = None if trials is None else trials.passed(folder)
        encoder = cls(
            folder,
            trusted=outlines is not None,
            outlines=outlines,
            batch_size=batch_size,
            threads=threads,
        )
        if outlines is None:
            stamp = None if trials is None else trials.before(folder)
            outlines = encoder._check()
            if trials is not None:
                trials.remember(folder, outlines, stamp)
        return encoder

    @property
    def ref(self) -> EncoderRef:
        """That of the encoder it was exported from: weights digest, preprocessing, dimensions."""
        return self._about.encoder

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines between images and texts with, from its weights."""
        return self._about.logit_scale

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """G: B images (converted to RGB where they are not) to float32 [B, D], raw."""
        rows = np.empty((len(images), self.ref.image_dim), dtype=np.float32)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            rows[start : start + len(batch)] = self.encode_pixels(self.pixels(batch))
        return rows

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """What the image tower reads: B images, at least one, to float32 [B, 3, S, S]."""
        return self._pixels(images)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The image tower alone: float32 [B, 3, S, S] to float32 [B, D], raw."""
        rows = np.empty((len(pixels), self.ref.image_dim), dtype=np.float32)
        for start in range(0, len(pixels), self.batch_size):
            batch = pixels[start : start + self.batch_size]
            rows[start : start + len(batch)] = self._images(batch)
        return rows

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """T: B texts to float32 [B, E], raw; a text beyond the tokenizer's limit is cut there."""
        rows = np.empty((len(texts), self.ref.text_dim), dtype=np.float32)
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            rows[start : start + len(batch)] = self._texts(self._tokens(batch))
        return rows

    @cached_property
    def _images(self) -> _Tower:
        return self._tower("image.onnx", self.ref.image_dim)

    @cached_property
    def _texts(self) -> _Tower:
        return self._tower("text.onnx", self.ref.text_dim)

    @cached_property
    def _tokens(self) -> ClipTokens:
        merges = split_merges(self._folder.read("merges.txt", trusted=self._trusted))
        return ClipTokens(merges, self._about.text.length, self._about.text.cleaning)

    def _tower(self, name: _TowerName, dim: int) -> _Tower:
        graph = self._graph(name)
        size = self._about.files[name].size
        tower = _Tower(graph, self._folder.path / name, dim, size, self._threads)
        del self._written[name]  # which may hold weights, where they lie at odd places
        self._folder.require_viewed(name)  # whose weights the runtime opened by its name
        return tower

    def _graph(self, name: _TowerName) -> bytes:
        """The bytes that are run of a file, made anew."""
        if name not in self._written:
            path = self._folder.path / name
            data = self._folder.view(name, trusted=self._trusted)
            graph = outline_of(check_graph(data, str(path)), name)
            if self._outlines is not None and self._outlines.get(name) != _sha256(graph):
                raise DigestMismatchError(f"{path} is not the file that was checked", hint=_AGAIN)
            self._written[name] = graph
        return self._written[name]

    def _check(self) -> Outlines:
        """The digests of what is run, once it has given the golden results."""
        _log.info("checking the encoder in %s, once", self._folder.path)
        golden = self._golden()
        self._tokens  # noqa: B018  read and compared with its digest
        outlines: Outlines = {name: _sha256(self._graph(name)) for name in _TOWERS}
        tried = try_encoder(self._folder, outlines, threads=self._threads)
        for name, expected in golden.items():  # images first, whatever order they came back in
            away = deviation(tried[name], expected)
            if not away <= TOLERANCE:
                raise InputError(
                    f"{self._folder.path}: the encoder gives other {name.replace('_', ' ')} here "
                    f"than where it was exported: {away:.2g} away, more than {TOLERANCE:g}",
                    hint=_AGAIN,
                )
        return outlines

    def _golden(self) -> dict[str, NDArray[np.float32]]:
        from safetensors.numpy import load

        data = self._folder.read("golden.safetensors")
        try:
            tensors = load(data)
            found = {name: tensors[name] for name in ("image_embeddings", "text_embeddings")}
            if any(rows.dtype != np.float32 or rows.ndim != 2 for rows in found.values()):
                raise ValueError("embeddings of another type")
            if any(deviation(rows, rows) != 0 for rows in found.values()):
                raise ValueError("embeddings that are not finite, or of no length")
        except Exception as error:  # safetensors has errors of its own
            raise InputError(
                f"{self._folder.path / 'golden.safetensors'}: {_one_line(error)}", hint=_AGAIN
            ) from None
        return found


def run_trial() -> None:
    """What the process of a trial does: :func:`~gmi_registry.encoders.trial.try_encoder`."""

    def work(folder: OnnxFolder, outlines: Outlines, threads: int) -> dict[str, NDArray[Any]]:
        # Its files were compared with their digests by the process that waits for this one.
        encoder = OnnxEncoder(folder, trusted=True, outlines=outlines, threads=threads)
        return golden_embeddings(encoder)

    answer_trial(work)


class _Tower:
    """A ``graph`` of the ONNX file at ``path``: an array with the batch first to float32 [B, dim].

    ``size`` are the bytes of the file. A run has bounded memory and time, whatever it is given.
    """

    def __init__(self, graph: bytes, path: Path, dim: int, size: int, threads: int) -> None:
        import onnxruntime

        _bound_memory()
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its log is for its own authors
        options.use_deterministic_compute = True
        # Not to be guessed from the bytes.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Spinning threads would take the cores from whoever else works here.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights in another order are faster by some hundredths, and copies of all of them.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry(_FOLDER, str(path.parent.absolute()))
        self._where = str(path)
        self._dim = dim
        self._seconds_a_row = size / _BYTES_A_SECOND
        try:
            self._session: Any = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
            (taken,), (given,) = self._session.get_inputs(), self._session.get_outputs()
        except Exception as error:  # the runtime has many kinds, and unpacking one more
            raise _cannot_run(self._where, error) from None
        self._names = taken.name, given.name

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        import onnxruntime

        taken, given = self._names
        options: Any = onnxruntime.RunOptions()

        def run() -> Any:
            return self._session.run([given], {taken: batch}, options)

        try:
            (found,) = _within(_SECONDS + len(batch) * self._seconds_a_row, run)
            rows: NDArray[np.float32] = np.asarray(found)
            if rows.dtype != np.float32 or rows.shape != (len(batch), self._dim):
                raise ValueError(f"it gives {rows.dtype} {list(rows.shape)}")
        except BaseException as error:
            options.terminate = True  # of what still runs
            if not isinstance(error, Exception):
                raise
            raise _cannot_run(self._where, error) from None
        return rows


@cache
def _bound_memory() -> None:
    """Of all towers of this process together, beside their weights."""
    import onnxruntime

    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu",
            onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
            0,
            onnxruntime.OrtMemType.DEFAULT,
        ),
        onnxruntime.OrtArenaCfg({"max_mem": _most_memory(), "arena_extend_strategy": 1}),
    )


def _most_memory() -> int:
    """Bytes; no more than most of what the machine has, where it says."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return _MOST_MEMORY
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(_MOST_MEMORY, int(machine * _SHARE_OF_MACHINE))


def _within(seconds: float, run: Callable[[], Any]) -> Any:
    """What ``run`` returns. Raises what it raises, and TimeoutError where it takes longer.

    It then goes on in its thread until it is told to stop, or the process ends.
    """
    found: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            found.append((run(), None))
        except BaseException as error:  # for the thread that waits
            found.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise TimeoutError(f"it takes more than {seconds:.0f} seconds")
    result, error = found[0]
    if error is not None:
        raise error
    return result


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _cannot_run(where: str, error: Exception) -> InputError:
    if any(mark in str(error) for mark in _NO_MEMORY):
        return InputError(
            f"{where} cannot be run: it asks for more memory beside its weights than an encoder "
            f"may have, which is {_most_memory() / 2**30:.1f} GiB at most",
            hint="encode fewer images at a time; if that is one, export the encoder again",
        )
    return InputError(f"{where} cannot be run: {_one_line(error)}", hint=_AGAIN)


def _one_line(error: Exception) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(text.split())[:300] or type(error).__name__
