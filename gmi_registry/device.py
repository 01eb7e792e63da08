"""Where to compute: devices by torch's names, and whether they are there and do what is asked."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from gmi_registry.errors import InputError, install_command

__all__ = ["DtypeName", "default_device", "require_device", "require_dtype"]

DtypeName = Literal["float32", "float16", "bfloat16"]
"""An element type, as torch and the recipe name it."""

_CPU = "cpu"


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``; so, too, where torch is not installed."""
    if find_spec("torch") is None:
        return _CPU
    import torch

    return "cuda" if torch.cuda.is_available() else _CPU


def require_device(name: str | None) -> str:
    """torch's name of the device ``name`` (None: :func:`default_device`), which has been tried.

    Raises InputError for a name that is none, for a device that is not there or that fails, and
    without torch for every device but the processor, on which everything else computes.
    """
    if name in (_CPU, f"{_CPU}:0"):
        return _CPU
    if find_spec("torch") is None:
        if name is None:
            return _CPU
        raise InputError(
            f"without torch everything is computed on the processor, and not on {name[:80]!r}",
            hint=f"leave out --device, or install torch: {install_command('torch')}",
        )
    name = default_device() if name is None else name
    if name == _CPU:
        return _CPU
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(
            f"{name[:80]!r} is not the name of a device",
            hint=f"use one of {', '.join(_present())}",
        ) from None
    fault = _fault(device)
    if fault is not None:
        raise InputError(
            f"there is no device {name[:80]} here: {fault}",
            hint=f"use one of {', '.join(_present())}, or leave out --device",
        )
    return str(device)


def require_dtype(device: str, dtype: DtypeName) -> None:
    """Raise InputError where ``device``, which is there, cannot compute in ``dtype``.

    A few operations of diffusion models are tried on a handful of numbers. Without torch nothing
    is tried.
    """
    if dtype == "float32" or find_spec("torch") is None:
        return
    import torch
    from torch.nn import functional

    kind = getattr(torch, dtype)
    try:
        pixels = torch.ones(1, 4, 4, 4, dtype=kind, device=device)
        kernel = torch.ones(4, 4, 3, 3, dtype=kind, device=device)
        mixed = functional.group_norm(functional.conv2d(pixels, kernel, padding=1), 2)
        rows = functional.layer_norm(mixed.flatten(2).transpose(1, 2), (4,))
        rows = functional.scaled_dot_product_attention(rows, rows, rows)
        functional.gelu(functional.linear(rows, kernel[:, :, 0, 0])).cpu()
        functional.interpolate(functional.silu(mixed), scale_factor=2.0).cpu()
    except Exception as error:  # as many kinds as there are back ends
        raise InputError(
            f"{device} cannot compute in {dtype}: {_one_line(error)}",
            hint="use --dtype float32, or another --device",
        ) from error


def _fault(device: object) -> str | None:
    """Why a device of torch's cannot be used, in one line, or None where it can."""
    import torch

    assert isinstance(device, torch.device)
    if device.type == _CPU:
        return None if not device.index else "there is one processor, cpu"
    if device.type == "meta":
        return "it computes nothing"
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "torch finds no GPU that it can use"
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            return f"torch finds {count}, cuda:0 to cuda:{count - 1}"
    try:
        (torch.zeros(2, device=device) + 1).cpu()
    except Exception as error:  # as many kinds as there are back ends
        return _one_line(error)
    return None


def _present() -> list[str]:
    """The devices that this machine has."""
    import torch

    found = [_CPU]
    if torch.cuda.is_available():
        found += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    for name in ("mps", "xpu"):
        if getattr(getattr(torch, name, None), "is_available", lambda: False)():
            found.append(name)
    return found


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:159]}…"
