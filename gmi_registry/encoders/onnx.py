"""CLIP and its kin without torch: two ONNX files, run by onnxruntime, and where they lie.

A picture becomes the input of the image tower in Pillow and numpy, as open_clip does it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.atomic import user_cache
from gmi_registry.encoders.encoder import ENCODER_NAME, FileName, in_batches
from gmi_registry.encoders.onnx_files import (
    ONNX_FOLDER,
    TOLERANCE,
    GraphDigests,
    OnnxFolder,
    Trials,
    answer_trial,
    deviation,
    export_again,
    reference_embeddings,
    try_encoder,
)
from gmi_registry.errors import DigestMismatchError, InputError, MissingExtraError, install_command
from gmi_registry.sanitize import reason_of

if TYPE_CHECKING:
    from gmi_registry.encoders.tokenizer import ClipTokens
    from gmi_registry.spec import EncoderRef, Preprocess

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Preprocessing:
    """Pictures to the numbers that the tower was trained on.

    ``fill_color`` (0 to 255) is what the mode ``longest`` pads with. Raises InputError for an
    interpolation that open_clip has not.
    """

    def __init__(self, preprocess: Preprocess, fill_color: int = 0) -> None:
        if preprocess.interpolation not in _RESAMPLING:
            raise InputError(
                f"images cannot be resized by {preprocess.interpolation} here",
                hint=f"one of {', '.join(_RESAMPLING)}",
            )
        self._mode = preprocess.resize_mode
        self._side = preprocess.size
        self._resampling = _RESAMPLING[preprocess.interpolation]
        self._fill = (fill_color,) * 3
        self._mean = np.array(preprocess.mean, dtype=np.float32)
        self._std = np.array(preprocess.std, dtype=np.float32)

    def square(self, image: Image.Image) -> NDArray[np.uint8]:
        """One picture, made RGB where it is not, to uint8 [S, S, 3] before normalisation."""
        if image.mode != "RGB":  # a copy of a large picture takes as much again
            image = image.convert("RGB")
        side = self._side
        if self._mode == "squash":
            image = image.resize((side, side), self._resampling)
        elif self._mode == "shortest":
            image = self._cropped(image.resize(self._covering(image), self._resampling))
        else:
            image = self._cropped(self._padded(image.resize(self._within(image), self._resampling)))
        return np.asarray(image, dtype=np.uint8)

    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """B pictures to float32 [B, 3, S, S]."""
        rows = np.stack([self.square(image) for image in images]).astype(np.float32)
        # The order of the operations is that of torchvision: another one rounds differently.
        rows = (rows / np.float32(255) - self._mean) / self._std
        return np.ascontiguousarray(rows.transpose(0, 3, 1, 2))

    def _covering(self, image: Image.Image) -> tuple[int, int]:
        """The size at which the short side fits; the long one is rounded down."""
        width, height = image.size
        long = int(self._side * max(width, height) / min(width, height))
        return (self._side, long) if width <= height else (long, self._side)

    def _within(self, image: Image.Image) -> tuple[int, int]:
        """The size at which the long side fits; the short one is rounded to the nearest."""
        ratio = max(length / self._side for length in image.size)
        width, height = (max(1, round(length / ratio)) for length in image.size)
        return width, height

    def _padded(self, image: Image.Image) -> Image.Image:
        missing = [max(0, self._side - length) for length in image.size]
        if not any(missing):
            return image
        left, top = (some // 2 for some in missing)
        right, bottom = ((some + 1) // 2 for some in missing)
        from PIL import ImageOps

        return ImageOps.expand(image, border=(left, top, right, bottom), fill=self._fill)

    def _cropped(self, image: Image.Image) -> Image.Image:
        # round() takes a half to the even neighbour, here as in torchvision.
        left, top = (round((length - self._side) / 2) for length in image.size)
        return image.crop((left, top, left + self._side, top + self._side))


_FOLDER = "session.model_external_initializers_file_folder_path"

_TowerName = Literal["image.onnx", "text.onnx"]
_TOWERS: tuple[_TowerName, ...] = ("image.onnx", "text.onnx")

# Bounds of one run, which no honest encoder comes near: of ViT-L-14 (1.2 GB) an image takes 2 s and
# some 50 MB beside the weights.
_SECONDS, _BYTES_A_SECOND = 60.0, 4e7
# Weights of two bytes (--half) are widened in it: 4 GB for ViT-H-14, which is the largest known.
_MOST_MEMORY = 12 * 2**30
_SHARE_OF_MACHINE = 0.75
# What a search asks for: some images, or the words of a query.
_FEW_ROWS = 8
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
        digests: GraphDigests | None = None,
        trials: Trials | None = None,
        optimised: bool | None = None,
        batch_size: int = 32,
        threads: int = 0,
    ) -> None:
        """``trusted`` compares no digests of files; ``digests`` are all that may be run, if given,
        and ``trials`` may have kept it. ``optimised`` says how graphs are run; by default few rows
        are encoded by the graph as it is, which takes less time than to optimise it.

        Nothing is read here but the description: files that are refused are so when first used.
        """
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} holds nothing", hint="use 1 or more")
        self.batch_size = batch_size
        self._folder = folder
        self._about = folder.description
        self._trusted = trusted
        self._digests = digests
        self._trials = trials
        self._optimised = optimised
        self._written: dict[_TowerName, bytes] = {}
        self._towers: dict[tuple[_TowerName, bool], _Tower] = {}
        self._threads = threads
        self._pixels = Preprocessing(self._about.encoder.preprocess, self._about.fill_color)

    @classmethod
    def from_folder(
        cls, path: str | Path, *, memory: Path | None = None, batch_size: int = 32, threads: int = 0
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
        trials = None if memory is None else Trials(memory)
        folder = OnnxFolder(Path(path), trials)
        encoder = cls(
            folder,
            trusted=folder.passed is not None,
            digests=None if folder.passed is None else folder.passed.digests,
            trials=trials,
            batch_size=batch_size,
            threads=threads,
        )
        if folder.passed is None:
            stamp = None if trials is None else trials.before(folder)
            graphs = encoder._check()
            if trials is not None:
                trials.remember(folder, graphs, stamp)
        return encoder

    @cached_property
    def ref(self) -> EncoderRef:
        """That of the encoder it was exported from: weights digest, preprocessing, dimensions."""
        from gmi_registry.spec import EncoderRef

        return EncoderRef.model_validate(self.stated_ref)

    @property
    def stated_ref(self) -> EncoderRef | dict[str, Any]:
        """The same, or its plain values where the folder was checked before: to make a reference
        of them needs pydantic, which takes as long to import as a search."""
        return self._about.encoder

    @property
    def encoder_id(self) -> str:
        """The id of ``ref``."""
        passed = self._folder.passed
        return self.ref.id if passed is None else passed.encoder_id

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines between images and texts with, from its weights."""
        return self._about.logit_scale

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """G: B images (converted to RGB where they are not) to float32 [B, D], raw."""
        tower = self._tower("image.onnx", len(images))
        return in_batches(
            images, tower.dim, self.batch_size, lambda batch: tower(self.pixels(batch))
        )

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """What the image tower reads: B images, at least one, to float32 [B, 3, S, S]."""
        return self._pixels(images)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The image tower alone: float32 [B, 3, S, S] to float32 [B, D], raw."""
        tower = self._tower("image.onnx", len(pixels))
        return in_batches(pixels, tower.dim, self.batch_size, tower)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """T: B texts to float32 [B, E], raw; a text beyond the tokenizer's limit is cut there."""
        tower = self._tower("text.onnx", len(texts))
        return in_batches(
            texts, tower.dim, self.batch_size, lambda batch: tower(self._tokens(batch))
        )

    @cached_property
    def _tokens(self) -> ClipTokens:
        from gmi_registry.encoders.tokenizer import ClipTokens, split_merges

        merges = split_merges(self._folder.read("merges.txt", trusted=self._trusted))
        return ClipTokens(merges, self._about.text.length, self._about.text.cleaning)

    def _tower(self, name: _TowerName, rows: int) -> _Tower:
        """The tower that encodes so many rows: as many are always encoded in the same way."""
        optimised = rows > _FEW_ROWS if self._optimised is None else self._optimised
        if (name, optimised) not in self._towers:
            graph, about = self._graph(name), self._about
            dim = about.encoder.image_dim if name == "image.onnx" else about.encoder.text_dim
            size = about.files[name].size
            tower = _Tower(
                graph, self._folder.path / name, dim, size, self._threads, optimised=optimised
            )
            del self._written[name]  # which may hold weights, where they lie at odd places
            self._folder.require_viewed(name)  # whose weights the runtime opened by its name
            self._towers[name, optimised] = tower
        return self._towers[name, optimised]

    def _graph(self, name: _TowerName) -> bytes:
        """The bytes that are run of a file: those that were checked, else made anew."""
        if name not in self._written:
            path = self._folder.path / name
            data = self._folder.view(name, trusted=self._trusted)
            digest = None if self._digests is None else self._digests.get(name, "")
            graph = self._trials.graph(digest) if self._trials and digest else None
            if graph is None:
                from gmi_registry.encoders.external_data import graph_with_external_data
                from gmi_registry.encoders.graph import check_graph

                graph = graph_with_external_data(check_graph(data, str(path)), name)
                if digest is not None and digest != hashlib.sha256(graph).hexdigest():
                    raise DigestMismatchError(
                        f"{path} is not the file that was checked", hint=export_again()
                    )
                if self._trials and digest:
                    self._trials.mend(digest, graph)
            self._written[name] = graph
        return self._written[name]

    def _check(self) -> dict[FileName, bytes]:
        """The graphs that are run, once they have given the reference vectors."""
        _log.info("checking the encoder in %s, once", self._folder.path)
        golden = self._golden()
        self._tokens  # noqa: B018  read and compared with its digest
        graphs: dict[FileName, bytes] = {name: self._graph(name) for name in _TOWERS}
        digests: GraphDigests = {
            name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()
        }
        tried = try_encoder(self._folder, digests, threads=self._threads)
        for name, expected in golden.items():  # images first, whatever order they came back in
            away = max((deviation(rows, expected) for rows in tried[name]), default=float("inf"))
            if not away <= TOLERANCE:
                raise InputError(
                    f"{self._folder.path}: the encoder gives other {name.replace('_', ' ')} here "
                    f"than where it was exported: {away:.2g} away, more than {TOLERANCE:g}",
                    hint=export_again(),
                )
        return graphs

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
                f"{self._folder.path / 'golden.safetensors'}: {reason_of(error)}",
                hint=export_again(),
            ) from None
        return found


def run_trial() -> None:
    """What the process of a trial does: :func:`~gmi_registry.encoders.onnx_files.try_encoder`."""

    def work(folder: OnnxFolder, digests: GraphDigests, threads: int) -> dict[str, NDArray[Any]]:
        # Its files were compared with their digests by the process that waits for this one.
        ways = [
            reference_embeddings(
                OnnxEncoder(
                    folder, trusted=True, digests=digests, optimised=optimised, threads=threads
                )
            )
            for optimised in (False, True)
        ]
        return {name: np.stack([way[name] for way in ways]) for name in ways[0]}

    answer_trial(work)


class _Tower:
    """A ``graph`` of the ONNX file at ``path``: an array with the batch first to float32 [B, dim].

    ``size`` are the bytes of the file. A run has bounded memory and time, whatever it is given.
    """

    def __init__(
        self, graph: bytes, path: Path, dim: int, size: int, threads: int, *, optimised: bool
    ) -> None:
        import onnxruntime

        _bound_memory()
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its log is for its own authors
        options.use_deterministic_compute = True
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Not to be guessed from the bytes.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Spinning threads would take the cores from whoever else works here.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights in another order are faster by some hundredths, and copies of all of them.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry(_FOLDER, str(path.parent.absolute()))
        self.dim = dim
        self._where = str(path)
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
            if rows.dtype != np.float32 or rows.shape != (len(batch), self.dim):
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


def _cannot_run(where: str, error: Exception) -> InputError:
    if any(mark in str(error) for mark in _NO_MEMORY):
        return InputError(
            f"{where} cannot be run: it needs more memory besides its weights than an encoder "
            f"may use, which is {_most_memory() / 2**30:.1f} GiB at most",
            hint="encode fewer images at a time; if that is one, export the encoder again",
        )
    return InputError(f"{where} cannot be run: {reason_of(error)}", hint=export_again())


_EXPORTS, _TRIALS = "encoders", "encoders-checked-v1"


def has_torch() -> bool:
    """Whether open_clip, and torch with it, could be imported; neither is."""
    return all(find_spec(name) is not None for name in ("torch", "open_clip"))


def require_processor(device: str) -> None:
    """Raise InputError for a ``device`` that an export would pass over: it runs on the processor.

    Nothing is wrong where open_clip is installed, which uses the device.
    """
    if device.partition(":")[0] != "cpu" and not has_torch():
        raise InputError(
            f"without open_clip everything is encoded on the processor, and not on {device[:80]}",
            hint=f"leave out --device, or install open_clip: {install_command('torch')}",
        )


def require_exporter() -> None:
    """Raise MissingExtraError where something is missing that an export needs."""
    for package in ("torch", "open_clip", "onnx", "onnxscript"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="export", purpose="exporting an encoder")


def kept_export(name: str, pretrained: str, encoder_id: str, cache_dir: Path | None) -> Path:
    """Where this machine keeps the export of an encoder with that id; it need not be there.

    ``cache_dir`` is that of the weights, as for :func:`gmi_registry.encoders.load_encoder`.
    """
    return _home(cache_dir) / _EXPORTS / name / pretrained / encoder_id


def exports_of(
    name: str, pretrained: str, folder: Path | None, cache_dir: Path | None
) -> list[Path]:
    """The exports of an encoder that are there: the one in the hub's ``folder`` first."""
    found = [] if folder is None else [folder / ONNX_FOLDER]
    kept = _home(cache_dir) / _EXPORTS / name / pretrained
    if kept.is_dir():
        found += sorted(path for path in kept.iterdir() if not path.name.startswith("."))
    return [path for path in found if (path / ENCODER_NAME).is_file()]


def open_export(path: Path, cache_dir: Path | None, *, batch_size: int = 32) -> OnnxEncoder:
    """The encoder in ``path``, checked once on this machine. Raises as ``from_folder``."""
    return OnnxEncoder.from_folder(path, memory=_home(cache_dir) / _TRIALS, batch_size=batch_size)


def sole_export(
    name: str, pretrained: str, folder: Path | None, cache_dir: Path | None, *, batch_size: int = 32
) -> OnnxEncoder:
    """The first export of an encoder that is there.

    Raises MissingExtraError where there is none, and as :meth:`.OnnxEncoder.from_folder`.
    """
    for path in exports_of(name, pretrained, folder, cache_dir):
        encoder = open_export(path, cache_dir, batch_size=batch_size)
        if (encoder.ref.name, encoder.ref.pretrained) == (name, pretrained):
            return encoder
    raise _no_export(name, pretrained, cache_dir)


def require_export(name: str, pretrained: str, folder: Path | None, cache_dir: Path | None) -> None:
    """Raise MissingExtraError where :func:`sole_export` would find no export. Reads none."""
    if not exports_of(name, pretrained, folder, cache_dir):
        raise _no_export(name, pretrained, cache_dir)


def _no_export(name: str, pretrained: str, cache_dir: Path | None) -> MissingExtraError:
    error = MissingExtraError(
        "open_clip_torch",
        extra="torch",
        purpose=f"the encoder {name}/{pretrained}, which has no export here,",
    )
    # Torch is gigabytes, and need not be on this machine.
    error.hint = (
        f"{error.hint}; or where that is, gmi encoder export {name}/{pretrained} --output DIR, "
        f"and put DIR on this machine as {kept_export(name, pretrained, 'exported', cache_dir)}"
    )
    return error


def _home(cache_dir: Path | None) -> Path:
    return user_cache() if cache_dir is None else cache_dir.parent
