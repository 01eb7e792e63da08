"""Where exported encoders lie on this machine, and what there is without torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from gmi_registry.encoders.layout import ENCODER_NAME, ONNX_FOLDER
from gmi_registry.encoders.onnx import OnnxEncoder
from gmi_registry.errors import InputError, MissingExtraError

__all__ = [
    "exports_of",
    "has_torch",
    "kept_export",
    "open_export",
    "require_export",
    "require_exporter",
    "require_processor",
    "sole_export",
]

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
            hint="leave out --device, or install open_clip: pip install 'gmi-registry[torch]'",
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
    name: str,
    pretrained: str,
    folder: Path | None,
    cache_dir: Path | None,
    *,
    batch_size: int = 32,
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
        purpose=f"the encoder {name}/{pretrained}, of which there is no export here,",
    )
    # Torch is gigabytes, and need not be on this machine.
    error.hint = (
        f"{error.hint}; or where that is, gmi encoder export {name}/{pretrained} --output DIR, "
        f"and put DIR on this machine as {kept_export(name, pretrained, 'exported', cache_dir)}"
    )
    return error


def _home(cache_dir: Path | None) -> Path:
    if cache_dir is not None:
        return cache_dir.parent
    from platformdirs import user_cache_path

    return user_cache_path("gmi-registry", appauthor=False)
