"""The images of a model, as the payload of a point of their own.

They are read for the few models that are shown, and never searched. As a multivector each number
would cross the network as up to twelve digits; as bytes in base64 the same takes a quarter. In the
payload of the model itself a server would read them for every model that it finds.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["packed", "unpacked"]


def packed(images: NDArray[np.float16]) -> dict[str, str]:
    """The payload for images [N, D]."""
    return {"images": base64.b64encode(images.astype("<f2").tobytes()).decode()}


def unpacked(payload: object, shape: tuple[int, int]) -> NDArray[np.float16] | None:
    """The inverse of :func:`packed`: images of that shape, or None where these are none."""
    try:
        text = payload["images"] if isinstance(payload, Mapping) else ""
        data = base64.b64decode(text, validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    if len(data) != 2 * shape[0] * shape[1]:
        return None
    images = np.frombuffer(data, "<f2").reshape(shape)
    return images.astype(np.float16) if np.isfinite(images).all() else None
