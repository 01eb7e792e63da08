"""Weights in fewer bits than they are computed in: what a file's quantisation is called, and which
are read.

Weights in float8 are read with their scales: a tensor ``layer.weight`` has its true values only
times ``layer.scale_weight`` (ComfyUI's first layout) or ``layer.weight_scale`` (its present one,
and that of compressed-tensors). GGUF is left to diffusers. Everything else needs a library of its
own, and is refused by its name: loaded as it lies there, it would make images of noise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gmi_registry.errors import GenerationError
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.weights.architectures import Keys
from gmi_registry.weights.header import Header, Tensor, WeightsFormatError, read_config, read_header

if TYPE_CHECKING:
    import torch


_EIGHT = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_WEIGHT_SCALES = (".scale_weight", ".weight_scale")
# Scales of what goes into a layer: a program that computes in float8 needs them, this one does not.
_INPUT_SCALES = (".scale_input", ".input_scale")
SCALE_MARKS = re.compile(r"(?:^|\.)(?:scaled_fp8|comfy_quant)$")
"""Tensors that say of a file or a layer that it has scales."""
_OTHER_SCALES = re.compile(
    r"\.(?:weight_scale_(?:2|inv)|scale_weight_2|absmax|quant_map|SCB|qweight|qzeros|wscales)$"
)
_NUMBER = re.compile(r"\d+")
_PACKED = frozenset({"I8", "U8", "I32", "F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"})


def quantisation_of(keys: Keys, file_format: Literal["safetensors", "gguf"]) -> str | None:
    """The name that people give it; None for plain floating-point weights of 16 bits and more.

    ``fp8`` alone means weights that were cast without scales, ``fp8 with scales`` those that must
    be multiplied before they are used.
    """
    dtypes: Counter[str] = Counter()
    for tensor in keys.tensors.values():
        dtypes[tensor.dtype] += tensor.count
    if file_format == "gguf":
        packed = [dtype for dtype, _ in dtypes.most_common() if dtype not in _PLAIN]
        return f"GGUF {packed[0] if packed else dtypes.most_common(1)[0][0]}"
    if keys.has_any(r"\.quant_state\.bitsandbytes__nf4$"):
        return "bitsandbytes nf4"
    if keys.has_any(r"\.quant_state\.bitsandbytes__fp4$"):
        return "bitsandbytes fp4"
    if keys.has_any(r"\.absmax$", r"\.quant_map$", r"\.SCB$"):
        return "bitsandbytes"
    if keys.has(r"\.qweight$") and keys.has_any(r"\.wscales$", r"\.smooth_factor$", r"\.smooth$"):
        return "nunchaku svdquant"
    if keys.has(r"\.qweight$") and keys.has_any(r"\.qzeros$", r"\.g_idx$"):
        return "GPTQ" if keys.has(r"\.g_idx$") else "AWQ or GPTQ"
    eight = any(dtype in _EIGHT for dtype in dtypes)
    if keys.has_any(r"\.comfy_quant$"):
        return "ComfyUI's mixed precision" + (" (fp8 with scales)" if eight else "")
    if keys.has_any(r"\.(?:scale_weight|weight_scale|weight_scale_inv|scale_input|input_scale)$",
                    r"(?:^|\.)scaled_fp8$"):  # fmt: skip
        if eight:
            return "fp8 with scales"
        if any(dtype in ("U8", "I8", "F4") for dtype in dtypes):
            return "int8 or 4 bits with scales"
        return "with scales"
    if keys.has_any(r"\._(?:data|scale)$", r"\.weight\._"):
        return "quanto"
    if eight:
        return "fp8"
    weights = Counter({dtype: count for dtype, count in dtypes.items() if count})
    most = weights.most_common(1)[0][0] if weights else None
    if most in ("I8", "U8", "F4", "F6_E2M3", "F6_E3M2"):
        return f"quantised ({most})"
    return None


class Scales(NamedTuple):
    """``of_weights`` are names of scales by the weight that they belong to, ``beside`` what else
    there is of a file's quantisation and is not read."""

    of_weights: Mapping[str, str]
    beside: frozenset[str]


def scales_of(who: str, header: Header, kind: str | None) -> Scales:
    """The scales in a file, every one of which is applied or refused.

    ``kind`` is how its weights are quantised (:func:`quantisation_of`). Raises GenerationError for
    a way that is not read here. ``who`` is the model, and what its file is, in messages.
    """
    tensors = header.tensors
    if header.format == "gguf":
        return Scales({}, frozenset())
    of_weights: dict[str, str] = {}
    beside = {name for name in tensors if SCALE_MARKS.search(name)}
    for name in tensors:
        if name.endswith(_INPUT_SCALES):
            beside.add(name)
            continue
        end = next((end for end in _WEIGHT_SCALES if name.endswith(end)), None)
        if end is None:
            continue
        weight = f"{name.removesuffix(end)}.weight"
        if weight not in tensors or weight in of_weights:
            raise _refused(who, kind, f"{one_line(name, 80)} is the scale of no weight in it")
        fault = _scale_fault(tensors[weight], tensors[name])
        if fault is not None:
            raise _refused(who, kind, f"{one_line(name, 80)} {fault}")
        of_weights[weight] = name
    lacking = _without_scale(tensors, of_weights, beside)
    if lacking:
        raise GenerationError(
            f"{who}, whose weights in float8 have scales, lacks those of "
            f"{len(lacking):,} (such as {one_line(lacking[0], 80)}): read without them they would "
            "be many times too large",
            hint="download the file again; if that does not help, its author must save it again",
        )
    scaled = kind is not None and ("fp8" in kind or kind == "with scales")
    if kind is not None and (not scaled or _is_packed(tensors)):
        raise _refused(who, kind, None)
    return Scales(of_weights, frozenset(beside))


def _without_scale(
    tensors: Mapping[str, Tensor], of_weights: Mapping[str, str], beside: frozenset[str] | set[str]
) -> list[str]:
    """Weights in float8 that have lost their scale.

    Layers of the same name in other blocks have one, or the file says that it has scales and has
    none. A kind of layer of which none has a scale may have been cast without.
    """
    weights = [
        name
        for name, tensor in tensors.items()
        if tensor.dtype in _FLOAT8 and len(tensor.shape) >= 2 and name.endswith(".weight")
    ]
    if not of_weights:
        said = any(name.endswith("scaled_fp8") for name in beside)
        return weights if said else []
    layers = {_NUMBER.sub("0", name) for name in of_weights}
    return [name for name in weights if name not in of_weights and _NUMBER.sub("0", name) in layers]


def _scale_fault(weight: Tensor, scale: Tensor) -> str | None:
    """Why a scale cannot be multiplied with its weight; None where it can."""
    if weight.dtype not in (*_FLOAT8, "F16", "BF16", "F32"):
        return f"is the scale of a weight in {weight.dtype}"
    if scale.dtype not in ("F32", "F16", "BF16", "F64"):
        return f"is a scale in {scale.dtype}"
    rows = weight.shape[0] if weight.shape else 1
    if scale.count == 1 or (scale.count == rows and scale.shape[:1] == (rows,)):
        return None
    return f"has the shape {list(scale.shape)}, and its weight {list(weight.shape)}"


def _is_packed(tensors: Mapping[str, Tensor]) -> bool:
    """Whether some weights are whole numbers, several in a byte, or have scales of another kind."""
    return any(
        _OTHER_SCALES.search(name) is not None
        or (tensor.dtype in _PACKED and name.endswith("weight"))
        for name, tensor in tensors.items()
    )


def _refused(who: str, kind: str | None, fault: str | None) -> GenerationError:
    how = kind or "scales that are not known here"
    return GenerationError(
        f"{who}, quantised ({how}){f': {fault}' if fault else ''}: read as plain weights it would "
        "make images of noise",
        hint="publish the weights that it was made from, in float16, bfloat16, float8 or GGUF",
    )


def dequantised(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``weight`` times ``scale`` (one number, or one a row), computed in float32, in ``dtype``."""
    import torch

    factor = scale.to(torch.float32).reshape(-1)
    if factor.numel() > 1:
        factor = factor.reshape(-1, *([1] * (weight.ndim - 1)))
    return (weight.to(torch.float32) * factor).to(dtype)


def has_bad_scale(scale: torch.Tensor) -> bool:
    """Whether one of the numbers of a scale is 0, or is none."""
    import torch

    numbers = scale.to(torch.float32)
    return not bool((torch.isfinite(numbers) & (numbers != 0)).all())


class _Library(NamedTuple):
    """``module`` is imported by the name, ``package`` installed by it."""

    title: str
    module: str
    package: str
    needs_gpu: bool = True


_BITSANDBYTES = _Library("bitsandbytes", "bitsandbytes", "bitsandbytes")
_LIBRARIES = {
    "bitsandbytes": _BITSANDBYTES,
    "bitsandbytes_4bit": _BITSANDBYTES,
    "bitsandbytes_8bit": _BITSANDBYTES,
    "torchao": _Library("torchao", "torchao", "torchao", needs_gpu=False),
    "quanto": _Library("quanto", "optimum.quanto", "optimum-quanto", needs_gpu=False),
    "modelopt": _Library("NVIDIA's ModelOpt", "modelopt", "nvidia-modelopt"),
    "gguf": _Library("GGUF", "gguf", "gguf", needs_gpu=False),
    "sdnq": _Library("SDNQ", "sdnq", "sdnq", needs_gpu=False),
    "auto-round": _Library("AutoRound", "auto_round", "auto-round"),
    "gptq": _Library("GPTQ", "gptqmodel", "gptqmodel"),
    "awq": _Library("AWQ", "gptqmodel", "gptqmodel"),
    "hqq": _Library("HQQ", "hqq", "hqq"),
    "compressed-tensors": _Library(
        "compressed-tensors", "compressed_tensors", "compressed-tensors", needs_gpu=False
    ),
}


def check_components(model: ModelFiles, components: Iterable[str]) -> None:
    """Raise GenerationError for a folder that cannot be loaded as its weights were quantised.

    That is one whose configuration names a library that is not installed, or that diffusers does
    not know, and one whose weights have scales that no configuration speaks of. Reads
    ``config.json`` and the headers of the weights.
    """
    for component in components:
        config = read_config(model.path / component / "config.json")
        said = config.get("quantization_config")
        if said is None:
            _check_headers(model, component)
            continue
        method = said.get("quant_method") if isinstance(said, dict) else None
        name = one_line(str(method), 60)
        library = _LIBRARIES.get(str(method))
        bits = _bits(said) if isinstance(said, dict) else ""
        if library is None:
            raise GenerationError(
                f"{model.ref}: its {component} is quantised by {name!r}{bits}, which is not loaded "
                "here",
                hint="publish the model that it was made from",
            )
        if not _installed(library.module):
            gpu = ", which needs a GPU" if library.needs_gpu else ""
            raise GenerationError(
                f"{model.ref}: its {component} is quantised by {library.title}{bits}, which is not "
                "installed",
                hint=f"pip install {library.package}{gpu}; or publish the model that it was made "
                "from",
            )


def _bits(said: Mapping[str, Any]) -> str:
    if said.get("load_in_4bit") or said.get("_load_in_4bit"):
        return " (4 bits)"
    if said.get("load_in_8bit") or said.get("_load_in_8bit"):
        return " (8 bits)"
    bits = said.get("bits")
    return f" ({bits} bits)" if isinstance(bits, int) and 0 < bits < 100 else ""


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package inside one that is not there
        return False


def _check_headers(model: ModelFiles, component: str) -> None:
    for weight in model.weights:
        folder, _, _ = weight.path.rpartition("/")
        if folder != component or not weight.path.lower().endswith(".safetensors"):
            continue
        try:
            header = read_header(model.path / weight.path)
        except WeightsFormatError as error:
            raise GenerationError(f"{model.ref}: {error.message}", hint=error.hint) from error
        kind = quantisation_of(Keys(header.tensors), header.format)
        if kind is None or kind == "fp8":
            continue
        raise GenerationError(
            f"{model.ref}: the weights of its {component} are quantised ({kind}), and its "
            "config.json says nothing of it: they would be read without their scales",
            hint="publish the model that it was made from, or add the quantization_config",
        )
