"""CLIP and its kin without torch: two ONNX files, run by onnxruntime."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.encoders.golden import TOLERANCE, deviation, golden_embeddings
from gmi_registry.encoders.graph import check_graph
from gmi_registry.encoders.layout import OnnxFolder
from gmi_registry.encoders.outline import outline
from gmi_registry.encoders.pixels import Pixels
from gmi_registry.encoders.trial import Trials
from gmi_registry.encoders.wording import ClipTokens, split_merges
from gmi_registry.errors import InputError
from gmi_registry.spec import EncoderRef

__all__ = ["OnnxEncoder"]

_AGAIN = "export it again, or install what runs it: pip install 'gmi-registry[torch]'"

_FOLDER = "session.model_external_initializers_file_folder_path"

_log = logging.getLogger(__name__)


class OnnxEncoder:
    """An :class:`~gmi_registry.encoders.Encoder` in the files of one folder, each read when needed.

    Weights are mapped where they lie, so the files may be replaced while it works, but not cut. It
    computes in float32 on the processor. Its reference is that of the encoder it was exported
    from, whose embeddings its own equal to a thousandth of their length. ``threads`` 0 is one for
    each core.
    """

    def __init__(
        self, folder: OnnxFolder, *, trusted: bool, batch_size: int = 32, threads: int = 0
    ) -> None:
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} holds nothing", hint="use 1 or more")
        self.batch_size = batch_size
        self._folder = folder
        self._about = folder.description
        self._trusted = trusted
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

        The digests of all files are compared, and what it makes of some pictures and texts with
        what torch made of them. That it passed is noted in ``memory``, and not tried again while
        the files stay as they are; None notes nothing.

        Raises InputError for a folder that is incomplete or malformed, for an ONNX file that needs
        other files or unusual operators, and for an encoder that does not pass; DigestMismatchError
        for files that were changed; UnsupportedVersionError for a newer layout.
        """
        folder = OnnxFolder(Path(path))
        trials = None if memory is None else Trials(memory)
        trusted = trials is not None and trials.passed(folder)
        encoder = cls(folder, trusted=trusted, batch_size=batch_size, threads=threads)
        if not trusted:
            encoder._check()
            if trials is not None:
                trials.remember(folder)
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

    def _tower(self, name: Literal["image.onnx", "text.onnx"], dim: int) -> _Tower:
        data = self._folder.view(name, trusted=self._trusted)
        where = self._folder.path / name
        if not self._trusted:
            check_graph(data, str(where))
        return _Tower(data, where, dim, self._threads)

    def _check(self) -> None:
        _log.info("checking the encoder in %s, once", self._folder.path)
        golden = self._golden()
        for name, rows in golden_embeddings(self).items():
            away = deviation(rows, golden[name])
            if not away <= TOLERANCE:
                raise InputError(
                    f"{self._folder.path}: the encoder gives other {name.replace('_', ' ')} here "
                    f"than where it was exported: {away:.2g} away, more than {TOLERANCE:g}",
                    hint=_AGAIN,
                )

    def _golden(self) -> dict[str, NDArray[np.float32]]:
        from safetensors.numpy import load

        data = self._folder.read("golden.safetensors")
        try:
            tensors = load(data)
            found = {name: tensors[name] for name in ("image_embeddings", "text_embeddings")}
            if any(rows.dtype != np.float32 or rows.ndim != 2 for rows in found.values()):
                raise ValueError("embeddings of another type")
        except Exception as error:  # safetensors has errors of its own
            raise InputError(
                f"{self._folder.path / 'golden.safetensors'}: {_one_line(error)}", hint=_AGAIN
            ) from None
        return found


class _Tower:
    """The ONNX file ``data`` at ``path``: an array with the batch first to float32 [B, ``dim``]."""

    def __init__(self, data: memoryview, path: Path, dim: int, threads: int) -> None:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its log is for its own authors
        options.use_deterministic_compute = True
        # Spinning threads would take the cores from whoever else works here.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights in another order are faster by some hundredths, and copies of all of them.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry(_FOLDER, str(path.parent.absolute()))
        self._where = str(path)
        self._dim = dim
        try:
            self._session: Any = onnxruntime.InferenceSession(
                outline(data, path.name), options, providers=["CPUExecutionProvider"]
            )
            (taken,), (given,) = self._session.get_inputs(), self._session.get_outputs()
        except Exception as error:  # the runtime has many kinds, and unpacking one more
            raise _cannot_run(self._where, error) from None
        self._names = taken.name, given.name

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        taken, given = self._names
        try:
            (found,) = self._session.run([given], {taken: batch})
            rows: NDArray[np.float32] = np.asarray(found)
            if rows.dtype != np.float32 or rows.shape != (len(batch), self._dim):
                raise ValueError(f"it gives {rows.dtype} {list(rows.shape)}")
        except Exception as error:  # as above
            raise _cannot_run(self._where, error) from None
        return rows


def _cannot_run(where: str, error: Exception) -> InputError:
    return InputError(f"{where} cannot be run: {_one_line(error)}", hint=_AGAIN)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
