"""Why a model is not loaded: the errors that several loaders raise."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.errors import GenerationError
from gmi_registry.model import ModelFiles

__all__ = ["needs_code", "one_line", "pickled", "refused"]


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

    ``shown`` is the folder that stood for the model's own, as the other library calls it.
    """
    words = one_line(error)
    if shown is not None:
        words = words.replace(str(shown), str(model.path))
    return GenerationError(
        f"{model.ref}: {what}: {words}",
        hint="check that the download is complete and the model card is right",
    )
