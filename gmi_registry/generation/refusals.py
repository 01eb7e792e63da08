"""Why a model is not loaded: the errors that several loaders raise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gmi_registry.errors import GenerationError, HubError
from gmi_registry.generation.memory import OutOfMemoryError, is_out_of_memory
from gmi_registry.model import Kind, ModelFiles
from gmi_registry.weights import (
    Architecture,
    FileKind,
    WeightsFile,
    WeightsFormatError,
    architecture_title,
    identify_file,
    may_be,
    read_header,
    require_described,
)

__all__ = [
    "SAVE_WHOLE",
    "needs_code",
    "one_line",
    "pickled",
    "refused",
    "require_described_weights",
]

_HEADERS = (".safetensors", ".gguf")
_FILE_KINDS: dict[Kind, frozenset[FileKind]] = {
    "checkpoint": frozenset(),
    "single-file": frozenset({"checkpoint", "network"}),
    "lora": frozenset({"lora", "lycoris"}),
    "textual-inversion": frozenset({"textual-inversion"}),
}
_TAKEN_FOR: dict[Kind, str] = {
    "checkpoint": "a diffusers folder",
    "single-file": "a whole model in one file",
    "lora": "a LoRA",
    "textual-inversion": "a textual inversion",
}
_NETWORK_FOLDERS = ("unet", "transformer")
_SAVE_AGAIN = (
    "see whether DiffusionPipeline.from_pretrained loads the folder; if not, save the pipeline "
    "again: pipeline.save_pretrained(folder)"
)

SAVE_WHOLE = (
    "load the pipeline with all of its parts, those that lie in another repository too, and save "
    "it: pipeline.save_pretrained(folder)"
)
"""What to do about a pipeline that lacks a part, as HiDream's own repository lacks its Llama."""


def one_line(error: BaseException) -> str:
    """What an error of another library says, on one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"


def needs_code(who: str, what: str) -> GenerationError:
    """``who`` holds a part, ``what``, that is neither of diffusers nor of transformers."""
    return GenerationError(
        f"{who}: needs the code of {what[:80]}, and code that comes with a model is not run",
        hint="publish a pipeline whose parts diffusers and transformers ship",
    )


def pickled(model: ModelFiles, name: str) -> GenerationError:
    """The file ``name`` of a model is a pickle."""
    return GenerationError(
        f"{model.ref}: {name} is a pickle, which can run any program when it is opened",
        hint="convert the weights to .safetensors, then publish those",
    )


def refused(
    model: ModelFiles, what: str, error: Exception, *, shown: Path | None = None
) -> GenerationError:
    """``what`` went wrong with a model, in the words of another library's ``error``.

    ``shown`` is the folder that stood for the model's own, as the other library calls it. Want of
    memory is an OutOfMemoryError: nothing is wrong with the model then.
    """
    words = one_line(error)
    if shown is not None:
        words = words.replace(str(shown), str(model.path))
    if is_out_of_memory(error):
        return OutOfMemoryError(
            f"{model.ref}: memory ran out while it was loaded: {words}",
            hint="close other programs, or use a machine with more memory; on a GPU give --offload "
            "model (or sequential), or --dtype bfloat16",
        )
    try:
        require_described_weights(model)
    except GenerationError as own:
        return GenerationError(f"{own.message} ({words})", hint=own.hint)
    file = _described_file(model)
    title, hint = "a diffusers folder", _SAVE_AGAIN
    if file is not None:
        title, hint = file.title, _way_out(file)
        if model.base is not None and file.architecture is not None:
            base = _network_of(model.base)
            if base is not None and not may_be(file.architecture, base):
                what = f"its base model {model.base.ref} is {architecture_title(base)}; {what}"
    if isinstance(error, ImportError):
        hint = "install the package that it names, or publish a model that needs none"
    return GenerationError(f"{model.ref} is {title}, and {what}: {words}", hint=hint)


def require_described_weights(model: ModelFiles) -> None:
    """Raise GenerationError where a weight file of ``model`` is not what it is taken for.

    That is a damaged file, or one of a kind of which no specification is made: a VAE, a ControlNet.
    The message says what the file is. Only headers are read; a file that is not there is left to
    those who load it.
    """
    if model.kind == "checkpoint":
        for name, path in _weight_files(model):
            try:
                read_header(path)
            except WeightsFormatError as error:
                words = error.message.replace(str(path), name)
                raise GenerationError(f"{model.ref}: {words}", hint=error.hint) from None
        return
    file = _described_file(model)
    if file is None:
        return
    try:
        require_described(file, str(model.ref))
    except HubError as error:
        raise GenerationError(error.message, hint=error.hint) from None
    if file.kind not in _FILE_KINDS[model.kind]:
        raise GenerationError(
            f"{model.ref} is {file.title}, and was taken for {_TAKEN_FOR[model.kind]}",
            hint="publish it from its hub, where its file tells what it is",
        )


def _weight_files(model: ModelFiles) -> Iterator[tuple[str, Path]]:
    """The files with headers that are here, by their paths in the model's folder."""
    for weight in model.weights:
        path = model.path / weight.path
        if model.kind == "single-file":
            # A network that was saved with its configuration is a folder of its own.
            name = PurePosixPath(weight.path).name
            path = model.path / name if model.path.is_dir() else model.path
        if path.suffix.lower() in _HEADERS and path.is_file():
            yield weight.path, path


def _described_file(model: ModelFiles) -> WeightsFile | None:
    """What the one file of an adapter or a single-file model is; None for models of several."""
    files = [] if model.kind == "checkpoint" else [path for _, path in _weight_files(model)]
    return identify_file(files[0]) if len(files) == 1 else None


def _network_of(base: ModelFiles) -> Architecture | None:
    """The architecture of a base model's network, told by its weights; None where they do not."""
    for name, path in _weight_files(base):
        if base.kind != "checkpoint" or name.partition("/")[0] in _NETWORK_FOLDERS:
            found = identify_file(path).architecture
            if found is not None:
                return found
    return None


def _way_out(file: WeightsFile) -> str:
    """What to do about a file of a good kind that did not load with its base."""
    kind = "the kind that it was made for"
    if file.architecture is not None:
        kind = architecture_title(file.architecture)
    claim = "" if file.base_claim is None else f" (its metadata name {file.base_claim})"
    return f"check that base_model in the model card, or --base, is a model of {kind}{claim}"
