"""What is told of a model before its weights are loaded: what its pipeline class generates, and why
a model cannot be loaded.

A specification needs images that are made from a text alone. diffusers has pipelines for a dozen
other tasks, whose classes look much alike; some take a text and say only when they run that they
want an image beside it. Signatures tell most of them; its own tables of tasks, and the names that
it gives the others, tell the rest. A class that is new, takes a prompt and needs nothing else
passes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from gmi_registry.errors import GenerationError, HubError
from gmi_registry.generation.placement import OutOfMemoryError, is_out_of_memory
from gmi_registry.model import Kind, ModelFiles
from gmi_registry.sanitize import one_line
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
NETWORKS = ("unet", "transformer")
_SAVE_AGAIN = (
    "see whether DiffusionPipeline.from_pretrained loads the folder; if not, save the pipeline "
    "again: pipeline.save_pretrained(folder)"
)

SAVE_WHOLE = (
    "load the pipeline with all of its parts, including those in another repository, and save it: "
    "pipeline.save_pretrained(folder)"
)
"""What to do about a pipeline that lacks a part, as HiDream's own repository lacks its Llama."""

_EMPTY = inspect.Parameter.empty
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_VIDEO = frozenset(
    {"control_video", "frame_rate", "frames", "num_frames", "num_videos_per_prompt", "video"}
    | {"video_length"}
)
_TEXT = frozenset({"gen_length", "max_new_tokens"})
_CONTROL = frozenset({"adapter", "controlnet"})
_IMAGES = frozenset({"image", "images", "input_images", "mask_image", "original_image"})
_DECODERS = frozenset({"decoder", "movq", "unet", "vae", "vqgan", "vqvae"})
"""Parts that give pixels: a pipeline with a prior and without one of them makes embeddings."""
_EDITING = re.compile(r"Edit|Kontext|Pix2Pix")
_UPSCALING = re.compile(r"Refiner|SuperResolution|Upsample|Upscale")
_FROM_IMAGE = re.compile(r"Depth2Img|Image2Image|ImageToImage|Img2Img|Variation")
_MASKED = re.compile(r"Fill|Inpaint")
Pipeline = Any
"""A diffusers ``DiffusionPipeline``; diffusers ships no types."""
PIPELINE_INDEX = "model_index.json"
_LIBRARIES = frozenset({"diffusers", "transformers"})
_INDISPENSABLE = frozenset({*NETWORKS, "vae", "scheduler"})
_SOURCES: dict[Any, str] = {}
"""Of the classes that were asked about: reading one takes longer than a batch of a tiny model."""


def error_line(error: BaseException) -> str:
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
    words = error_line(error)
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
            hint="publish it from its hub, where its file says what it is",
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
        if base.kind != "checkpoint" or name.partition("/")[0] in NETWORKS:
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


def why_not_text_to_image(pipeline: type[Any], index: Mapping[str, Any]) -> str | None:
    """Why a pipeline class makes no images from a text alone; None where it does, or may.

    ``index`` is its ``model_index.json``. The answer completes "FluxFillPipeline ...": "paints
    into an image, which it needs beside a prompt".
    """
    takes = inspect.signature(pipeline.__call__).parameters
    has = inspect.signature(pipeline.__init__).parameters
    name = pipeline.__name__
    return (
        _other_kind(name, takes, has)
        or _no_prompt(takes)
        or _needs_image(name, takes, has, index)
        or _needs_more(takes)
    )


def missing_packages(pipeline: object) -> list[str]:
    """What a class of diffusers needs that is not installed; it is a placeholder then."""
    return [name for name in getattr(pipeline, "_backends", ()) if find_spec(name) is None]


def _other_kind(name: str, takes: Collection[str], has: Collection[str]) -> str | None:
    """What it makes, where that is no image."""
    parameters = set(takes)
    if parameters & _VIDEO or _listed(name, "2VIDEO"):
        return "makes videos"
    if any(parameter.startswith("audio") for parameter in takes) or _listed(name, "2AUDIO"):
        return "makes sounds"
    if "frame_size" in takes:
        return "makes 3D objects"
    if parameters & _TEXT:
        return "makes texts"
    if "prior" in has and not _DECODERS & set(has):
        return "makes embeddings for another pipeline, no images"
    if "LDM3D" in name:
        return "makes images with a depth map each"
    if "Onnx" in name:
        return "is made of ONNX files, which are not loaded here"
    return None


def _no_prompt(takes: Mapping[str, inspect.Parameter]) -> str | None:
    if "prompt" in takes:
        return None
    needed = _required(takes)
    if "class_labels" in needed:
        return "takes no prompt, but the number of a class"
    if "image" in takes:
        return "takes no prompt, but an image"
    return "takes no prompt"


def _needs_image(
    name: str,
    takes: Mapping[str, inspect.Parameter],
    has: Collection[str],
    index: Mapping[str, Any],
) -> str | None:
    controls = _CONTROL & set(has) or {part for part in takes if part.startswith("control_image")}
    if controls:
        return "needs an image of edges, depth or a pose besides a prompt"
    if index.get("requires_aesthetics_score") is True:
        return "is SDXL's refiner, which needs an image to begin with"
    if not _IMAGES & set(takes) and "source_embeds" not in takes:
        return None
    if _EDITING.search(name):
        return "edits images, and needs one besides a prompt"
    if _UPSCALING.search(name):
        return "enlarges or refines images, and needs one to begin with"
    from_text = _listed(name, "TEXT2IMAGE")
    if _MASKED.search(name) or ("mask_image" in takes and not from_text):
        return "paints into an image, which it needs besides a prompt"
    from_image = (
        _FROM_IMAGE.search(name) or _listed(name, "IMAGE2IMAGE") or "image" in _required(takes)
    )
    if from_image and not from_text:
        return "needs an image to begin with"
    return None


def _needs_more(takes: Mapping[str, inspect.Parameter]) -> str | None:
    needed = [name for name in _required(takes) if name != "prompt"]
    if any("embed" in name for name in needed):
        return "needs the embeddings of another pipeline (its prior) besides a prompt"
    if needed:
        return f"needs {', '.join(needed[:3])} besides a prompt"
    if "num_inference_steps" not in takes:
        return "takes no number of steps, which a recipe records"
    return None


def _required(takes: Mapping[str, inspect.Parameter]) -> list[str]:
    return [
        name
        for name, parameter in takes.items()
        if parameter.default is _EMPTY and parameter.kind not in _VARIABLE and name != "self"
    ]


def _listed(name: str, task: str) -> bool:
    """Whether one of diffusers' tables for tasks that end in ``task`` has it."""
    from diffusers.pipelines import auto_pipeline

    return any(
        getattr(known, "__name__", str(known)) == name
        for table in dir(auto_pipeline)
        if table.startswith("AUTO_") and table.endswith(f"{task}_PIPELINES_MAPPING")
        for known in getattr(auto_pipeline, table).values()
    )


def why_other_channels(network: Mapping[str, Any], coder: Mapping[str, Any]) -> str | None:
    """Why a network reads more than noise, by its and its autoencoder's configuration.

    An inpainting, editing or control model has channels for an image, a mask or a depth map beside
    those of the noise, whatever class its ``model_index.json`` names: 9 and 8 of 4 in Stable
    Diffusion's, 384 and 128 of 64 in FLUX.1's. The answer completes "its network ...".
    """
    reads, gives = (
        whole_number(network.get("in_channels")),
        whole_number(network.get("out_channels")),
    )
    latents = whole_number(coder.get("latent_channels")) or whole_number(coder.get("z_dim"))
    if reads is None or gives is None or latents is None:
        return None
    # Some read a square of 2 x 2 latents as one, and may give it as four.
    if reads <= gives or reads in (latents, 4 * latents):
        return None
    what = {9: "an image and a mask", 8: "an image to edit", 5: "a depth map"}
    extra = what.get(reads, "an image") if latents == 4 else "an image"
    return f"reads {reads} channels, and {gives} are the noise's: it needs {extra} to begin with"


def whole_number(value: object) -> int | None:
    """``value`` where it is a whole number above 0."""
    usable = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if usable and isinstance(value, int) else None


def needed_components(pipeline: type[Any]) -> list[str]:
    """The parts that a pipeline of this class must be given, null or not, in their order."""
    parameters = inspect.signature(pipeline.__init__).parameters.values()
    optional = {"self", *getattr(pipeline, "_optional_components", ())}
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in optional
    ]


def require_pipeline(who: str, index: Mapping[str, Any]) -> None:
    """Raise GenerationError where ``who``, with this ``model_index.json``, makes no images here.

    That is a pipeline with code of its own, one that diffusers lacks, one that needs a package
    which is not installed, or one that does not generate images from a text alone.
    """
    import diffusers

    try:
        wanted = index["_class_name"]
        components = {
            name: value
            for name, value in index.items()
            if isinstance(value, list) and not name.startswith("_")
        }
        libraries = {name: value[0] for name, value in components.items() if value[0] is not None}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise GenerationError(
            f"{who}: {PIPELINE_INDEX} does not describe a diffusers pipeline",
            hint="publish a folder that save_pretrained wrote",
        ) from error
    if not isinstance(wanted, str):
        raise needs_code(who, str(wanted[0] if wanted else wanted))
    pipeline = _pipeline_class(who, wanted)
    for name, library in libraries.items():
        if library not in _LIBRARIES and not hasattr(diffusers.pipelines, str(library)):
            if _was_of_diffusers(library):
                raise GenerationError(
                    f"{who}: diffusers {diffusers.__version__} no longer loads parts of "
                    f"{library} (component {name})",
                    hint="try an older version of diffusers",
                )
            raise needs_code(who, f"{library} (component {name})")
        _require_class(who, name, components[name])
    reason = why_not_text_to_image(pipeline, index)
    if reason is not None:
        raise GenerationError(
            f"{who}: {wanted[:80]} {reason}",
            hint="publish a model that generates images from a text only",
        )


def _pipeline_class(who: str, name: str) -> type[Any]:
    """The class ``name`` of diffusers. Raises GenerationError where there is none to use."""
    import diffusers

    try:
        found = getattr(diffusers, name, None)
    except Exception as error:  # a module that is imported now, and cannot be
        raise GenerationError(
            f"{who}: diffusers cannot load its {name[:80]}: {error_line(error)}",
            hint="pip install --upgrade diffusers transformers",
        ) from error
    if found is None:
        raise GenerationError(
            f"{who}: diffusers {diffusers.__version__} has no {name[:80]}",
            hint="pip install --upgrade diffusers",
        )
    missing = missing_packages(found)
    if missing:
        raise GenerationError(
            f"{who}: {name[:80]} needs {' and '.join(missing)}, which is not installed",
            hint=f"pip install {' '.join(missing)}",
        )
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        modular = "a modular pipeline, which is not loaded here"
        raise GenerationError(
            f"{who}: {name[:80]} is "
            f"{modular if 'Modular' in name else 'not a pipeline of diffusers'}",
            hint="publish a folder that save_pretrained wrote",
        )
    return found


def _require_class(who: str, component: str, value: list[Any]) -> None:
    """Raise GenerationError for a class that this version of diffusers or transformers lacks."""
    import diffusers
    import transformers

    library = {"diffusers": diffusers, "transformers": transformers}.get(value[0])
    name = value[1] if len(value) > 1 else None
    if library is None or (isinstance(name, str) and name in _names_in(value[0])):
        return
    raise GenerationError(
        f"{who}: {library.__name__} {library.__version__} has no "
        f"{one_line(str(name), 80)} (component {component})",
        hint=f"pip install --upgrade {library.__name__}",
    )


@cache
def _names_in(library: str) -> frozenset[str]:
    """What a library has, also what it would import only on being asked for it."""
    return frozenset(dir(import_module(library)))


def _was_of_diffusers(library: object) -> bool:
    """Whether diffusers keeps a package among those that it no longer looks into."""
    import diffusers

    folder = Path(diffusers.__file__).parent / "pipelines" / "deprecated"
    return isinstance(library, str) and library.isidentifier() and (folder / library).is_dir()


def require_parts(model: ModelFiles, index: Mapping[str, Any]) -> None:
    """Raise GenerationError for a ``model_index.json`` without a part that the pipeline needs."""
    pipeline = _pipeline_class(str(model.ref), index["_class_name"])
    # Text encoders and their tokenizers may be null: some pipelines do without one.
    lacking = [
        name
        for name in needed_components(pipeline)
        if name not in index or (name in _INDISPENSABLE and index[name] == [None, None])
    ]
    if lacking:
        raise GenerationError(
            f"{model.ref}: its {PIPELINE_INDEX} names no {' and no '.join(lacking)}, which a "
            f"{pipeline.__name__} needs",
            hint=SAVE_WHOLE,
        )


def call_source(pipeline_class: Any) -> str:
    """The source of a pipeline class's call, which says what no signature does; empty without."""
    if pipeline_class not in _SOURCES:
        try:
            _SOURCES[pipeline_class] = inspect.getsource(pipeline_class.__call__)
        except (OSError, TypeError):
            _SOURCES[pipeline_class] = ""
    return _SOURCES[pipeline_class]
