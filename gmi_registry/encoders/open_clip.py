"""CLIP and its kin through open_clip: float32, no gradients, raw embeddings.

Weights are fetched if need be; they are safetensors and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
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
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from gmi_registry.encoders.encoder import in_batches
from gmi_registry.errors import AuthError, HubError, InputError, OfflineError
from gmi_registry.sanitize import reason_of
from gmi_registry.spec import EncoderRef, Preprocess

# --- Where the weights are -----------------------------------------------------------------------

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


# --- The encoder ---------------------------------------------------------------------------------


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """No gradients, and no TF32, which convolutions on a GPU take by default."""
    with (
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
    ):
        yield


class OpenClipEncoder:
    """An :class:`~gmi_registry.encoders.Encoder` made of one open_clip model.

    ``model``, ``transform`` (RGB image to float32 [3, S, S]) and ``tokenizer`` (texts to int64
    [B, L]) are open_clip's own, for libraries that build on them. The same batch gives the same
    bytes; the same picture in a batch of another size may differ in the last bits of float32.
    """

    def __init__(
        self,
        ref: EncoderRef,
        model: torch.nn.Module,
        tokenizer: Callable[[list[str]], torch.Tensor],
        *,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} holds nothing", hint="use 1 or more")
        self._ref = ref
        self.model: Any = model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.transform: Callable[[Image.Image], torch.Tensor] = image_transform_v2(
            PreprocessCfg(**_settings(model)), is_train=False
        )
        self.device = device
        self.batch_size = batch_size

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        name: str,
        pretrained: str,
        *,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> OpenClipEncoder:
        """Load open_clip's ``local-dir:`` layout: configuration as JSON, weights as safetensors.

        ``name`` and ``pretrained`` go into the reference; the digest is taken from the bytes.
        Raises InputError for a folder that is incomplete, malformed, or holds a pickle.
        """
        folder = Path(path)
        config, weights = read_layout(folder)
        location = f"local-dir:{folder}"
        try:
            model = open_clip.create_model(location, precision="fp32", require_pretrained=True)
            # A Hugging Face tokenizer is read from the folder; one that brings code is not run.
            fetched = "hf_tokenizer_name" in config["model_cfg"]["text_cfg"]
            options = {"trust_remote_code": False, "local_files_only": True} if fetched else {}
            tokenizer = open_clip.get_tokenizer(location, **options)
        except Exception as error:  # open_clip asserts, indexes and reshapes what the files say
            raise _cannot_load(str(folder), error) from error
        dim = config["model_cfg"]["embed_dim"]
        ref = _reference(name, pretrained, weights, model, dim)
        return cls(ref, model, tokenizer, device=device, batch_size=batch_size)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        pretrained: str,
        cache_dir: Path | None = None,
        *,
        offline: bool = False,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> OpenClipEncoder:
        """Load one of open_clip's own architectures with one of its weights tags.

        Raises as :func:`gmi_registry.encoders.load_encoder`.
        """
        entry, weights = fetch_weights(name, pretrained, cache_dir, offline=offline)
        config = open_clip.get_model_config(name)
        # SimpleTokenizer, which most use, comes with open_clip; the others are fetched by name.
        fetched = "hf_tokenizer_name" in config["text_cfg"]
        try:
            # A path instead of the tag: open_clip would take a pickle where it finds no
            # safetensors. It then no longer knows the tag's preprocessing, and it never applies
            # the tag's activation (it only warns), so both are handed over: weights trained with
            # QuickGELU give wrong embeddings under plain GELU.
            model = open_clip.create_model(
                name,
                pretrained=str(weights),
                precision="fp32",
                require_pretrained=True,
                force_quick_gelu=bool(entry.get("quick_gelu", False)),
                force_preprocess_cfg=entry,
            )
            tokenizer = open_clip.get_tokenizer(
                name, cache_dir=cache_dir, **({"local_files_only": offline} if fetched else {})
            )
        except OSError as error:
            raise OfflineError(
                f"a part of {name}/{pretrained} could not be fetched: {reason_of(error)}",
                hint="try again with a network, or use another encoder",
            ) from error
        except Exception as error:  # as above
            raise _cannot_load(str(weights), error) from error
        ref = _reference(name, pretrained, weights, model, config["embed_dim"])
        return cls(ref, model, tokenizer, device=device, batch_size=batch_size)

    @property
    def ref(self) -> EncoderRef:
        """Name, weights digest, preprocessing and dimensions."""
        return self._ref

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines between images and texts with, from its weights."""
        return float(self.model.logit_scale.detach().float().exp().cpu().reshape(-1)[0])

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """G: B images (converted to RGB where they are not) to float32 [B, D], raw."""
        return in_batches(
            images,
            self._ref.image_dim,
            self.batch_size,
            lambda batch: self.encode_pixels(self.pixels(batch)),
        )

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """What the image tower reads: B images, at least one, to float32 [B, 3, S, S]."""
        stacked = torch.stack([self.transform(image.convert("RGB")) for image in images])
        return np.asarray(stacked.numpy())

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The image tower alone: float32 [B, 3, S, S] to float32 [B, D], raw."""

        def encode(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            features = self.model.encode_image(torch.from_numpy(batch).to(self.device))
            return np.asarray(features.float().cpu().numpy())

        with full_precision():
            return in_batches(pixels, self._ref.image_dim, self.batch_size, encode)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """T: B texts to float32 [B, E], raw; a text beyond the tokenizer's limit is cut there."""

        def encode(batch: Sequence[str]) -> NDArray[np.float32]:
            features = self.model.encode_text(self.tokenizer(list(batch)).to(self.device))
            return np.asarray(features.float().cpu().numpy())

        with full_precision():
            return in_batches(texts, self._ref.text_dim, self.batch_size, encode)


def _reference(
    name: str, pretrained: str, weights: Path, model: torch.nn.Module, dim: int
) -> EncoderRef:
    try:
        return EncoderRef(
            name=name,
            pretrained=pretrained,
            weights_sha256=sha256_of(weights),
            preprocess=_preprocess(_settings(model)),
            image_dim=dim,
            text_dim=dim,
        )
    except ValueError as error:  # pydantic's ValidationError among them
        raise InputError(
            f"{name}/{pretrained}: no specification can name this encoder: {reason_of(error)}",
            hint="its input must be square, with mean and std for three channels",
        ) from error


def _settings(model: torch.nn.Module) -> dict[str, Any]:
    visual: Any = model.visual
    settings: dict[str, Any] = visual.preprocess_cfg
    return settings


def _preprocess(settings: dict[str, Any]) -> Preprocess:
    size = settings["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"input of {' x '.join(str(side) for side in size)} pixels")
    return Preprocess(
        size=sides.pop(),
        mean=settings["mean"],
        std=settings["std"],
        interpolation=settings["interpolation"],
        resize_mode=settings["resize_mode"],
    )


def _cannot_load(where: str, error: Exception) -> InputError:
    return InputError(
        f"{where}: open_clip cannot load this encoder: {reason_of(error)}",
        hint="the weights must fit the configuration of the encoder",
    )
