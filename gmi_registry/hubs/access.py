"""How a hub is reached: where downloads are kept, with which tokens, and whether by the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class HubAccess:
    """What a hub that this package opens is told; one that is open already has its own.

    ``cache_dir`` is where the hub keeps what it downloads and works out (None: its usual place).
    ``token`` is for Hugging Face (None: the one that ``hf auth login`` or HF_TOKEN left; False:
    none). With ``offline`` no request is made (None: what HF_HUB_OFFLINE says). ``registry`` is
    the dataset of specifications that do not lie beside their models (None: GMI_REGISTRY, else the
    usual one). ``civitai_token`` is for Civitai (None: CIVITAI_TOKEN). No token is ever printed.
    """

    cache_dir: Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    offline: bool | None = None
    registry: str | None = None
    civitai_token: str | None = field(default=None, repr=False)
