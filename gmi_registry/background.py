"""Pictures that no model made, as queries of an index: which models are near everything.

``background.png`` holds 64 of them, computed by ``zoo/background.py``. What an
encoder makes of them is kept, and so is what was measured with them: the seconds that it takes are
spent once an encoder, and once for each set of models.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.errors import GmiError
from gmi_registry.index import Hubness, SpecCache, Universal, measure_hubness
from gmi_registry.index.hubness import FEWEST

if TYPE_CHECKING:
    from gmi_registry.encoders.encoder import Encoder
    from gmi_registry.index.groups import ModelGroup

_FILE = Path(__file__).with_name("background.png")
_SIDE, _ACROSS = 96, 8
# Part of the name of what is kept: numbers of another way to measure are others.
_METHOD = 1
# As many are measured while somebody waits for the answer to a search.
_FEW = 1000

_log = logging.getLogger(__name__)


@cache
def _content() -> bytes:
    return _FILE.read_bytes()


def pictures_digest() -> str:
    """SHA-256 of the file of the pictures, in hex."""
    return hashlib.sha256(_content()).hexdigest()


def pictures() -> list[Image.Image]:
    """The 64 pictures, 96 x 96 pixels, RGB."""
    with _FILE.open("rb") as stream:
        whole = Image.open(stream, formats=["PNG"]).convert("RGB")
    corners = [(_SIDE * x, _SIDE * y) for y in range(_ACROSS) for x in range(_ACROSS)]
    return [whole.crop((left, top, left + _SIDE, top + _SIDE)) for left, top in corners]


def embedded(encoder: Encoder, cache: SpecCache) -> NDArray[np.float32]:
    """What ``encoder`` makes of the pictures, [64, D]; out of ``cache`` where that is known."""
    known = kept_pictures(encoder.ref.id, encoder.ref.image_dim, cache)
    if known is not None:
        return known
    from safetensors.numpy import save

    _log.info("reading 64 background pictures, once for this encoder")
    found = np.asarray(encoder.encode_images(pictures()), np.float32)
    cache.keep("background", _name(encoder.ref.id), save({"images": found}))
    return found


def hubness(group: ModelGroup, cache: SpecCache, encoder: Encoder | None = None) -> Hubness:
    """Who of ``group`` is near everything, measured now unless that is known.

    The pictures take part where ``cache`` has what the encoder made of them, or ``encoder`` is
    given. Some of the members' images are read, with the errors of the group.
    """
    asked = embedded(encoder, cache) if encoder is not None else background_of(group, cache)
    known = known_hubness(group, cache)
    if known is not None and (known.pictures or asked is None):
        return known
    found = measure_hubness(group, asked)
    cache.keep("hubness", _measured_name(group), found.to_bytes())
    return found


def known_hubness(group: ModelGroup, cache: SpecCache) -> Hubness | None:
    """What was measured before of exactly these members, or None."""
    data = cache.kept("hubness", _measured_name(group))
    try:
        return None if data is None else Hubness.from_bytes(data)
    except Exception as error:  # written by a program that meant something else
        _log.debug("the stored measurements of %s have another layout: %s", group.key, error)
        return None


def known_universal(group: ModelGroup, cache: SpecCache) -> Mapping[str, Universal]:
    """The members that are near everything, for a search: as far as they were measured before, or
    are so few that it takes no time, and their images are on this machine."""
    known = known_hubness(group, cache)
    if known is None:
        few = FEWEST <= len(group.names) <= _FEW
        if not few or not group.at_hand(range(len(group.names))):
            return {}
        try:
            known = hubness(group, cache)
        except GmiError as error:  # an answer does without
            _log.debug("hubs of %s are not known: %s", group.key, error.message)
            return {}
    return known.universal


def background_of(group: ModelGroup, cache: SpecCache) -> NDArray[np.float32] | None:
    """What the encoder of ``group`` made of the pictures, where ``cache`` has it: [64, D]."""
    return kept_pictures(group.key.encoder_id, group.image_dim, cache)


def kept_pictures(encoder_id: str, width: int, cache: SpecCache) -> NDArray[np.float32] | None:
    """What an encoder of so many values made of the pictures, where ``cache`` has it: [64, D]."""
    data = cache.kept("background", _name(encoder_id))
    if data is None:
        return None
    from safetensors.numpy import load

    try:
        found = load(data)["images"]
    except Exception as error:
        _log.debug(
            "the stored embeddings of pictures by %s have another layout: %s", encoder_id, error
        )
        return None
    right = found.shape == (_ACROSS * _ACROSS, width) and found.dtype == np.float32
    return found if right and np.isfinite(found).all() else None


def _name(encoder_id: str) -> str:
    return f"{encoder_id} {pictures_digest()}"


def _measured_name(group: ModelGroup) -> str:
    return f"{_METHOD} {group.key} {group.digest} {pictures_digest()}"
