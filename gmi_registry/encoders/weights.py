"""Where an encoder's weights are on this disk, fetched if need be; safetensors and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    is_offline_mode,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from gmi_registry.errors import AuthError, HubError, InputError, OfflineError

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"

# Of httpx or httpx2, whichever this version of huggingface_hub was built on.
_HTTP_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]
_MAX_CONFIG_BYTES = 1_000_000
_LAYOUT_HINT = f"the folder needs {CONFIG_NAME} and {WEIGHTS_NAME}, as open_clip writes them"
# The options that only change how text is split. Others would reach transformers
# (trust_remote_code) or open files by name (bpe_path).
_TOKENIZER_OPTIONS = frozenset({"clean", "language", "reduction_mask", "strip_sep_token"})


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_layout(folder: Path) -> tuple[dict[str, Any], Path]:
    """Check a folder in open_clip's ``local-dir:`` layout; its configuration and weights file.

    Raises InputError where a file is missing or malformed, where the weights are a pickle, and
    where the configuration would have open_clip fetch a further model, run code from the folder or
    read other files: a folder that came from a hub is not trusted.
    """
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        pickles = [
            path.name
            for path in sorted(folder.glob("*"))
            if path.suffix in {".bin", ".pt", ".pth", ".ckpt"}
        ]
        if pickles:
            raise InputError(
                f"{folder}: {pickles[0]} is a pickle, which can run code when it is loaded",
                hint=f"convert the weights to {WEIGHTS_NAME}",
            )
        raise InputError(f"{weights}: no such file", hint=_LAYOUT_HINT)
    config = _read_config(folder / CONFIG_NAME)
    vision, text = config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
    if "hf_model_name" in text or ":" in str(vision.get("timm_model_name", "")):
        raise InputError(
            f"{folder / CONFIG_NAME}: the configuration names another model to download",
            hint="an encoder in a folder must be complete there",
        )
    options = text.get("tokenizer_kwargs", {})
    refused = sorted(set(options) - _TOKENIZER_OPTIONS) if isinstance(options, dict) else [options]
    if refused:
        raise InputError(
            f"{folder / CONFIG_NAME}: the tokenizer option {str(refused[0])[:80]!r} is not allowed",
            hint=f"allowed are {', '.join(sorted(_TOKENIZER_OPTIONS))}",
        )
    return config, weights


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint=_LAYOUT_HINT) from None
    try:
        if len(data) > _MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {_MAX_CONFIG_BYTES:,} bytes")
        config: dict[str, Any] = json.loads(data)
        model = config["model_cfg"]
        sections = (model["vision_cfg"], model["text_cfg"], config.get("preprocess_cfg", {}))
        if not isinstance(model["embed_dim"], int) or not all(
            isinstance(section, dict) for section in sections
        ):
            raise TypeError("a section of the wrong type")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: not an open_clip configuration: {error}", hint=_LAYOUT_HINT
        ) from None
    return config


def fetch_weights(
    name: str, pretrained: str, cache_dir: Path | None, *, offline: bool
) -> tuple[dict[str, Any], Path]:
    """open_clip's own entry for a tag (activation, preprocessing), and its weights file.

    The Hugging Face cache is asked first: a file that is there needs no network, and which weights
    it holds is for the digest to say. Raises as :func:`gmi_registry.encoders.load_encoder`.
    """
    entry, repository, filename = _published(name, pretrained)
    return entry, _fetch(repository, filename, cache_dir, offline)


def missing_bytes(
    name: str, pretrained: str, cache_dir: Path | None, *, offline: bool, beside: int = 0
) -> int:
    """Bytes that :func:`fetch_weights` would download; at most one request, and no content.

    Raises all that it raises but for a download that fails, and HubError where the disk has no room
    for that many and ``beside``.
    """
    _, repository, filename = _published(name, pretrained)
    if isinstance(try_to_load_from_cache(repository, filename, cache_dir), str):
        return 0
    with _explained(repository, filename, offline):
        if offline:
            raise OfflineModeIsEnabled
        size = get_hf_file_metadata(hf_hub_url(repository, filename)).size or 0
    place = Path(constants.HF_HUB_CACHE) if cache_dir is None else cache_dir
    while not place.exists():
        place = place.absolute().parent
    free = shutil.disk_usage(place).free
    if size + beside > free:
        raise HubError(
            f"{name}/{pretrained} and what else is downloaded need {size + beside:,} bytes in "
            f"{place}, and {free:,} are free",
            hint="free some space: hf cache ls, hf cache rm; or set HF_HOME to another disk",
        )
    return size


def _published(name: str, pretrained: str) -> tuple[dict[str, Any], str, str]:
    """open_clip's entry for a tag, and the repository and name of its safetensors file."""
    entry: dict[str, Any] = open_clip.get_pretrained_cfg(name, pretrained)
    if not entry:
        raise _unknown(name, pretrained)
    repository = str(entry.get("hf_hub", ""))
    owner_and_name, _, filename = repository.rpartition("/")
    if not owner_and_name or not (filename == "" or filename.endswith(".safetensors")):
        raise InputError(
            f"the weights of {name}/{pretrained} are published as a pickle only, "
            "which can run code when it is loaded",
            hint="use another encoder, or convert its weights and name the folder",
        )
    return entry, owner_and_name, filename or WEIGHTS_NAME


def _fetch(repository: str, filename: str, cache_dir: Path | None, offline: bool) -> Path:
    with _explained(repository, filename, offline):
        try:
            place = hf_hub_download(
                repository, filename, cache_dir=cache_dir, local_files_only=True
            )
        except LocalEntryNotFoundError:
            if offline:
                raise
            place = hf_hub_download(repository, filename, cache_dir=cache_dir)
        return Path(place)


@contextmanager
def _explained(repository: str, filename: str, offline: bool) -> Iterator[None]:
    """Errors of the client as those of this package."""
    where = f"{filename} of {repository}"
    hint = f"with a network, run once: hf download {repository} {filename}"
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        off = offline or is_offline_mode()
        why = "the network is switched off" if off else "the hub cannot be reached"
        raise OfflineError(f"{where} is not in the cache, and {why}", hint=hint) from None
    except EntryNotFoundError:
        raise HubError(
            f"{repository} holds no {filename}; a pickle is not loaded",
            hint="use another encoder, or convert its weights and name the folder",
        ) from None
    except GatedRepoError:
        raise AuthError(
            f"{repository} asks for consent first",
            hint="accept its terms on the hub, then run: hf auth login",
        ) from None
    except _HTTP_ERROR as error:
        if isinstance(error, HfHubHTTPError):
            raise _not_fetched(where, error) from error
        raise OfflineError(
            f"{where} is not in the cache, and the hub cannot be reached", hint=hint
        ) from None
    except OSError as error:
        raise _not_fetched(where, error) from error


def _not_fetched(where: str, error: BaseException) -> HubError:
    first = str(error).strip().partition("\n")[0]
    return HubError(f"{where} could not be fetched: {first}", hint="try again later")


def _unknown(name: str, pretrained: str) -> InputError:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tags:
        return InputError(
            f"open_clip knows no weights {pretrained!r} for {name}",
            hint=f"one of {', '.join(tags)}",
        )
    return InputError(
        f"open_clip knows no encoder {name}/{pretrained}",
        hint="check the name, or name the folder that holds the encoder",
    )
