"""How a file's weights are quantised, told by the tensors that lie beside them."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from gmi_registry.weights.keys import Keys

__all__ = ["quantisation_of"]

_EIGHT = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})


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
