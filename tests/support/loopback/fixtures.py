"""The real client, in this process or in a child, turned to a loopback hub.

``from loopback.fixtures import hf_hub`` in a conftest.py: pytest finds fixtures there by name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gmi_registry.hubs.huggingface import client

from .hub import LoopbackHub

__all__ = ["client_environment", "hf_hub", "served_hub", "turn_client"]

_UNSET = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_CO_STAGING", "HTTP_PROXY", "http_proxy",
    "ALL_PROXY", "all_proxy",
)  # fmt: skip

_TIMEOUT = 120  # seconds


def client_environment(endpoint: str, home: Path, *, xet: bool = False) -> dict[str, str]:
    """Variables that turn a fresh process to ``endpoint``, with nothing kept outside ``home``."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        # A machine that is busy with something else may keep this process waiting for longer.
        "HF_HUB_ETAG_TIMEOUT": str(_TIMEOUT),
        "HF_HUB_DOWNLOAD_TIMEOUT": str(_TIMEOUT),
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def turn_client(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, home: Path, *, xet: bool = False
) -> None:
    """Let huggingface_hub in this process, and children, use ``endpoint`` and ``home``.

    The library reads its environment when it is imported, which may have been long ago. So the
    constants are set beside the environment, and those few places that copied one at import: the
    ``HfApi`` behind the module's functions, the origins that keep the token, the caches' defaults.
    """
    wanted = client_environment(endpoint, home, xet=xet)
    for name in _UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils import _cache_assets, _cache_manager, _http, tqdm

    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_ASSETS_CACHE", "HF_XET_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.setattr(constants, name, wanted[name])
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HUGGINGFACE_HUB_CACHE": wanted["HF_HUB_CACHE"],
        "HUGGINGFACE_ASSETS_CACHE": wanted["HF_ASSETS_CACHE"],
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_ETAG_TIMEOUT": _TIMEOUT,
        "HF_HUB_DOWNLOAD_TIMEOUT": _TIMEOUT,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": not xet,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
    # The rest is private to the library: a version that lacks one of them has no need of it.
    origins = getattr(_http, "_HUB_ORIGINS", None)
    if origins is not None:
        own = {_http._url_origin(endpoint)}
        monkeypatch.setattr(_http, "_HUB_ORIGINS", frozenset(origins | own))
    monkeypatch.setattr(_cache_assets, "HF_ASSETS_CACHE", wanted["HF_ASSETS_CACHE"], raising=False)
    monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", wanted["HF_HUB_CACHE"], raising=False)
    monkeypatch.setattr(
        sys.modules[tqdm.__module__], "HF_HUB_DISABLE_PROGRESS_BARS", True, raising=False
    )


@contextmanager
def served_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty hub that huggingface_hub talks to; its home is ``tmp_path / "hf-home"``.

    Nobody is logged in: set HF_TOKEN, or hand a token to the client. Large files go over LFS; for
    Xet, call :func:`turn_client` with ``xet=True`` on a hub that has a ``xet_dir``. A child process
    needs ``env=os.environ`` only.
    """
    with LoopbackHub() as hub:
        turn_client(monkeypatch, hub.endpoint, tmp_path / "hf-home")
        yield hub
        # What a test left open would count, and hook the client of, the tests that follow.
        for counter in client._hook._open:
            counter.close()
    assert not hub.failures, os.linesep.join(hub.failures)


@pytest.fixture
def hf_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """As :func:`served_hub`."""
    with served_hub(tmp_path, monkeypatch) as hub:
        yield hub
