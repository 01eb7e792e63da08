"""What a file of weights is: its kind, its architecture, and what it says of itself.

Only the header is read. Nothing is believed that the names and shapes of tensors contradict: a base
that the metadata claim is reported as a claim.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from gmi_registry.errors import HubError
from gmi_registry.sanitize import one_line
from gmi_registry.weights.architectures import (
    CONTEXTS,
    PLAIN_ALGORITHMS,
    VIDEO,
    Adapter,
    Architecture,
    Keys,
    Network,
    adapter_of,
    architecture_title,
    network_of,
    patterns,
    unknown_network_of,
)
from gmi_registry.weights.header import Header, Tensor, WeightsFormatError, format_of, read_header
from gmi_registry.weights.quantisation import quantisation_of

FileKind = Literal[
    "checkpoint", "network", "lora", "lycoris", "textual-inversion", "vae", "text-encoder",
    "clip-vision", "language-model", "controlnet", "ip-adapter", "motion-module", "upscaler",
    "detector", "segmentation", "depth", "face-restoration", "hypernetwork", "optimizer",
    "aesthetic-gradient", "safety-checker", "scorer", "style-model", "prior", "audio",
    "pickle", "archive", "onnx", "lfs-pointer", "web-page", "json", "foreign", "cut-short", "empty",
    "malformed", "unknown",
]  # fmt: skip

DESCRIBED: frozenset[FileKind] = frozenset(
    {"checkpoint", "network", "lora", "lycoris", "textual-inversion"}
)
"""The kinds of which a specification can be made, alone or with a base model."""


class Part(NamedTuple):
    """``title`` has its article: "a VAE"."""

    kind: FileKind
    title: str


def hints() -> Mapping[str, str]:
    """The way out, by the kind of a file that no specification can be made of."""
    found: Mapping[str, str] = patterns()["hints"]
    return found


def part_of(keys: Keys, table: Literal["parts_before_networks", "parts"]) -> Part | None:
    """What part or other model these tensors make, by a table; None where no row fits."""
    fitting = next((row for row in patterns()[table] if keys.fit(row)), None)
    return None if fitting is None else Part(fitting["kind"], fitting["title"])


Prediction = Literal["epsilon", "v_prediction"]
NetworkPart = Literal["network", "ema", "vae", "text-encoder"]


@dataclass(frozen=True)
class WeightsFile:
    """What a file is.

    ``title`` has its article ("a VAE", "a LoRA for SDXL"), and is the first word of every refusal;
    ``hint`` is the way out, empty for a kind that can be described. ``architecture`` is told by
    names and shapes, None where they do not tell it. ``variant`` is a member of a family that its
    layers tell apart. ``parts`` are what a checkpoint or a network file holds, and
    ``text_encoders`` those encoders' names (``clip_l``, ``clip_g``, ``t5xxl``...).
    ``diffusers_names`` says that the network's layers have the names that diffusers gives them.

    ``input_channels`` and ``output_channels`` are the noise's; :attr:`needs_image` compares them.
    ``prediction_type`` is None where the file does not say it; ``quantisation`` is None for plain
    floating-point weights. ``algorithms``, ``layers``, ``tokens`` and ``text_encoder_layers`` are
    of adapters. ``base_claim`` is what the metadata call the base model, ``base_name`` the file or
    repository that it was trained on, and ``base_hash`` that file's digest, as the trainer wrote
    them. ``dtype`` is the commonest of the tensors.
    """

    kind: FileKind
    title: str
    hint: str = ""
    architecture: Architecture | None = None
    variant: str | None = None
    parts: tuple[NetworkPart, ...] = ()
    text_encoders: tuple[str, ...] = ()
    diffusers_names: bool = False
    input_channels: int | None = None
    output_channels: int | None = None
    prediction_type: Prediction | None = None
    zero_terminal_snr: bool = False
    quantisation: str | None = None
    dtype: str | None = None
    algorithms: tuple[str, ...] = ()
    layers: int = 0
    tokens: tuple[str, ...] = ()
    text_encoder_layers: bool = False
    base_claim: str | None = None
    base_name: str | None = None
    base_hash: str | None = None
    first_names: tuple[str, ...] = ()

    @property
    def is_described(self) -> bool:
        """Whether a specification can be made of such a file, alone or with a base model."""
        return self.kind in DESCRIBED and self.refusal is None

    @property
    def needs_image(self) -> bool:
        """Whether its network reads more channels than it writes: a picture, or a mask."""
        if self.input_channels is None or self.output_channels is None:
            return False
        return self.input_channels > self.output_channels

    @property
    def refusal(self) -> str | None:
        """Why nothing can be described with it, though the kind is right; None where it may be."""
        if self.kind not in DESCRIBED:
            return "no specification is made of such a file"
        if self.architecture in VIDEO:
            return f"{architecture_title(str(self.architecture))} makes videos"
        if self.architecture in ("stable-audio", "ace-step"):
            return "it makes sound"
        if self.architecture == "sdxl-refiner":
            return "the refiner needs an image to begin with"
        if self.architecture == "pixel-unet":
            return "it takes no prompt"
        if self.needs_image:
            return (
                f"its network reads {self.input_channels} channels, and {self.output_channels} are "
                "the noise's: it needs an image to begin with"
            )
        return None


def identify_file(path: Path) -> WeightsFile:
    """What a file on this disk is. Raises HubError where it cannot be read from the disk.

    A file that is no weight file is called what it is (a pickle, a web page), and one that is
    damaged is called that.
    """
    try:
        return identify(read_header(path))
    except WeightsFormatError as error:
        return _broken(path, error)


def require_described(file: WeightsFile, name: str) -> None:
    """Raise HubError where no specification can be made of ``file``.

    ``name`` is what the user knows it by. The message begins with what the file is.
    """
    if file.is_described:
        return
    reason = file.refusal if file.kind in DESCRIBED else None
    raise HubError(
        f"{name} is {file.title}{f': {reason}' if reason else ''}",
        hint=file.hint or "name a model that generates images from texts",
    )


def identify(header: Header) -> WeightsFile:
    """What the file with this header is; unknown where no row of the tables fits."""
    keys = Keys(header.tensors)
    said = header.metadata
    if not header.tensors:
        return WeightsFile("empty", "a weight file without tensors", hints()["unknown"])
    found = _kind(keys)
    prediction, zero = _prediction(keys, said) if found.kind in DESCRIBED else (None, False)
    return replace(
        found,
        prediction_type=prediction,
        zero_terminal_snr=zero,
        quantisation=quantisation_of(keys, header.format),
        dtype=_dtype(header.tensors.values()),
        base_claim=_claim(said),
        base_name=_text(said, "ss_sd_model_name"),
        base_hash=_text(said, "ss_new_sd_model_hash", "ss_sd_model_hash"),
        first_names=tuple(one_line(name, 80) for name in list(header.tensors)[:3]),
    )


def _broken(path: Path, error: WeightsFormatError) -> WeightsFile:
    with path.open("rb") as stream:
        foreign = format_of(stream.read(512))
    if foreign is not None:
        known = {"pickle", "archive", "onnx", "lfs-pointer", "web-page", "json", "empty"}
        kind: FileKind = foreign.name if foreign.name in known else "foreign"  # type: ignore[assignment]
        return WeightsFile(
            "cut-short" if foreign.name == "blank" else kind, foreign.title, foreign.hint
        )
    reason = error.message.removeprefix(str(path)).removeprefix(" is ")
    return WeightsFile(
        "cut-short" if error.damage == "cut-short" else "malformed", reason, error.hint or ""
    )


# ---- kinds

_NETWORK = "model.diffusion_model."
# What stands before the layers of a network that is shared alone.
_ALONE = ("diffusion_model.", "model.", "unet.", "transformer.", "net.", "module.", "dit.")
_VAE = r"^(?:first_stage_model|vae)\."
_TEXT = re.compile(
    r"^(?:cond_stage_model\.|conditioner\.embedders\.(?P<number>\d)\.|text_encoders?\.(?P<name>\w+?)\.)"
)


def _kind(keys: Keys) -> WeightsFile:
    part = part_of(keys, "parts_before_networks")
    if part is not None:
        return _other(part, keys)
    inversion = _inversion(keys)
    if inversion is not None:
        return inversion
    adapter = adapter_of(keys)
    # Networks that nunchaku packed bring two small factors for every layer.
    if adapter is not None and 2 * adapter.tensors >= len(keys.tensors):
        return _adapter(adapter)
    whole = _whole(keys)
    if whole is not None:
        return whole
    part = part_of(keys, "parts")
    if part is not None:
        return _other(part, keys)
    if adapter is not None:
        return _adapter(adapter)
    network = unknown_network_of(keys)
    if network is not None:
        return _with_network(keys, network)
    first = ", ".join(one_line(name, 60) for name in list(keys.tensors)[:3])
    title = f"a weight file of a kind that is not known here (its first tensors: {first})"
    return WeightsFile("unknown", title, hints()["unknown"])


def _other(part: Part, keys: Keys) -> WeightsFile:
    host = _host_of(keys) if part.kind in _GUESTS else None
    suffix = f" for {architecture_title(host)}" if host else ""
    return WeightsFile(part.kind, part.title + suffix, hints()[part.kind], host)


# What is put beside a network of one architecture.
_GUESTS = frozenset({"controlnet", "ip-adapter", "motion-module"})


# Layers that read the size of an image, as SDXL's do.
_SIZED = (r"^add_embedding\.linear_", r"^label_emb\.#\.#\.")


def _host_of(keys: Keys) -> Architecture | None:
    """The architecture that a ControlNet or an IP-Adapter is made for."""
    inner = keys.below("control_model.", "module.control_model.")
    if inner.tensors:
        keys = inner
    if keys.has(r"(?:^|_)transformer_blocks\.#\.img_mlp\."):
        return "qwen-image"
    if keys.has_any(r"^double_blocks\.|^controlnet_x_embedder|^single_transformer_blocks\."):
        return "flux1"
    if keys.has_any(r"^joint_blocks\.", r"norm1_context\."):
        return "sd3"
    if keys.has_any(r"^control_(?:all_x_embedder|layers|noise_refiner)"):
        return "z-image"
    context = keys.size(r"(?:down|input)_blocks.*attn2\.to_k\.(?:weight|down)|to_k_ip\.weight", -1)
    known = CONTEXTS.get(context or 0)
    return "sdxl" if known is None and keys.has_any(*_SIZED) else known


def _whole(keys: Keys) -> WeightsFile | None:
    """A checkpoint, or a network alone."""
    inside = keys.below(_NETWORK)
    network = (network_of(inside) or Network(None)) if inside.tensors else _network_alone(keys)
    return None if network is None else _with_network(keys, network)


def _with_network(keys: Keys, network: Network) -> WeightsFile:
    encoders = _text_encoders(keys)
    parts: list[NetworkPart] = ["network"]
    if keys.has(r"^model_ema\."):
        parts.append("ema")
    if keys.has(_VAE):
        parts.append("vae")
    if encoders:
        parts.append("text-encoder")
    named = "an architecture that is not known here"
    if network.architecture is not None:
        named = architecture_title(network.architecture)
    title = f"a checkpoint of {named}"
    if not encoders:
        lacks = "without text encoders" if "vae" in parts else "without text encoders and VAE"
        title = f"a diffusion network of {named} {lacks}"
    return WeightsFile(
        "checkpoint" if encoders else "network",
        title,
        architecture=network.architecture,
        variant=network.variant,
        parts=tuple(parts),
        text_encoders=encoders,
        diffusers_names=network.diffusers,
        input_channels=network.input_channels,
        output_channels=network.output_channels,
    )


def _network_alone(keys: Keys) -> Network | None:
    """The network of a file without the prefix that checkpoints have."""
    for prefix in ("", *_ALONE):
        inside = keys.below(prefix) if prefix else keys
        network = network_of(inside) if inside.tensors else None
        if network is not None:
            return network
    return None


def _text_encoders(keys: Keys) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in keys.tensors:
        match = _TEXT.match(name)
        if match is None:
            continue
        if match["name"]:
            found[match["name"]] = None
        elif match["number"]:
            found[{"0": "clip_l", "1": "clip_g"}.get(match["number"], match["number"])] = None
        else:
            found["clip_h" if name.startswith("cond_stage_model.model.") else "clip_l"] = None
    if tuple(found) == ("clip_l",) and keys.has(r"^conditioner\.embedders\.#\.model\."):
        return ("clip_g",)
    return tuple(sorted(found))


# Architectures of which there are networks, and so adapters, that read an image beside the noise.
_IMAGE_READERS = frozenset({"sd1", "sd2", "sdxl", "flux1"})


def _adapter(adapter: Adapter) -> WeightsFile:
    names = [patterns()["algorithms"][name] for name in adapter.algorithms]
    plain = "lora" in adapter.algorithms and PLAIN_ALGORITHMS.issuperset(adapter.algorithms)
    suffix = f" for {architecture_title(adapter.architecture)}" if adapter.architecture else ""
    kind: FileKind = "lora" if plain else "lycoris"
    if plain:
        title = f"a {'DoRA' if 'dora' in adapter.algorithms else 'LoRA'}{suffix}"
    else:
        title = f"{_article(names[0])} {' and '.join(names)} adapter (LyCORIS){suffix}"
    if adapter.language_model:
        kind, title = "language-model", "a LoRA for a language model"
    channels = adapter.channels if adapter.architecture in _IMAGE_READERS else None
    inputs, outputs = channels or (None, None)
    return WeightsFile(
        kind,
        title,
        hints().get(kind, ""),
        adapter.architecture,
        input_channels=inputs,
        output_channels=outputs,
        algorithms=adapter.algorithms,
        layers=adapter.layers,
        tokens=tuple(one_line(token, 80) for token in adapter.tokens),
        text_encoder_layers=adapter.text_encoders,
    )


def _article(name: str) -> str:
    return "an" if name[:1] in "AEIO" else "a"


# The width of an embedding, by the text encoder that it is for.
_EMBEDDINGS: dict[int, Architecture | None] = {
    768: "sd1", 1024: "sd2", 1280: "sdxl", 2048: None, 4096: None, 2304: "lumina2",
    2560: "z-image", 3584: "qwen-image",
}  # fmt: skip
_ENCODER_NAMES = re.compile(r"clip_[lgh]|t5(?:xxl)?|text_encoders?_\d|qwen\w*|gemma\w*")
_MOST_TOKENS = 64
_NO_TOKEN = re.compile(r"(?i)weight|bias|lora|norm|proj|embed|aesthetic")


def _inversion(keys: Keys) -> WeightsFile | None:
    """Textual inversions: A1111's, SDXL's and diffusers' files, and those of pivotal tuning."""
    tensors = keys.tensors
    names = set(tensors)
    tokens: tuple[str, ...] = ()
    architecture: Architecture | None = None
    if names & {"emb_params"} or any(name.startswith("string_to_param.") for name in names):
        widths = {tensor.shape[-1] for tensor in tensors.values() if tensor.shape}
        architecture = next((_EMBEDDINGS[it] for it in sorted(widths) if it in _EMBEDDINGS), None)
    elif all(_ENCODER_NAMES.fullmatch(name) for name in names):
        if not all(_is_embedding(tensor) for tensor in tensors.values()):
            return None
        widths = {tensor.shape[-1] for tensor in tensors.values()}
        if names & {"t5", "t5xxl"}:
            architecture = "sd3" if "clip_g" in names else "flux1"
        elif len(names) > 1 or 1280 in widths:
            architecture = "sdxl"
        else:
            architecture = next((_EMBEDDINGS[it] for it in widths if it in _EMBEDDINGS), None)
    elif len(names) <= _MOST_TOKENS and all(
        _is_embedding(tensor) and _is_token(name) for name, tensor in tensors.items()
    ):
        widths = {tensor.shape[-1] for tensor in tensors.values()}
        # Angle brackets are what diffusers' scripts write, and speak for a token at any width.
        if not widths <= set(_EMBEDDINGS) and not all(name.startswith("<") for name in names):
            return None
        tokens = tuple(one_line(name, 80) for name in tensors)
        architecture = _EMBEDDINGS.get(next(iter(widths))) if len(widths) == 1 else None
    else:
        return None
    suffix = f" for {architecture_title(architecture)}" if architecture else ""
    return WeightsFile(
        "textual-inversion",
        f"a textual inversion (an embedding){suffix}",
        "",
        architecture,
        tokens=tokens,
    )


def _is_embedding(tensor: Tensor) -> bool:
    return len(tensor.shape) in (1, 2) and tensor.count > 0


def _is_token(name: str) -> bool:
    """Whether a tensor's name may be a token: no part of a network is called so."""
    if name.startswith("<") and name.endswith(">"):
        return True
    return "." not in name and not _NO_TOKEN.search(name)


# ---- what a file says of itself


def _text(said: Mapping[str, str], *keys: str) -> str | None:
    for key in keys:
        value = said.get(key, "").strip()
        if value and value.casefold() not in ("none", "null"):
            return one_line(value, 200)
    return None


def _claim(said: Mapping[str, str]) -> str | None:
    claim = _text(said, "ss_base_model_version", "modelspec.architecture")
    if claim is None and _is_true(said.get("ss_v2")):
        return "sd_v2"
    return claim or _text(said, "base_model", "baseModel", "general.architecture")


def _is_true(value: str | None) -> bool:
    return (value or "").strip().casefold() in ("true", "1", "yes")


def _prediction(keys: Keys, said: Mapping[str, str]) -> tuple[Prediction | None, bool]:
    """How the network's output is read, by marks among the tensors and by the metadata.

    ComfyUI takes tensors called v_pred and ztsnr as marks; sd-scripts writes ``modelspec`` and
    ``ss_`` fields.
    """
    names = keys.tensors
    zero = (
        "ztsnr" in names
        or _is_true(said.get("ss_zero_terminal_snr"))
        or _is_true(said.get("modelspec.zero_terminal_snr"))
        or _is_true(said.get("ztsnr"))
    )
    if "v_pred" in names or _is_true(said.get("v_pred")):
        return "v_prediction", zero
    stated = said.get("modelspec.prediction_type", said.get("prediction_type", ""))
    stated = stated.strip().casefold().replace("-", "_")
    if stated in ("v", "v_pred", "v_prediction", "vpred"):
        return "v_prediction", zero
    if _is_true(said.get("ss_v_parameterization")) or _is_true(said.get("ss_v_pred")):
        return "v_prediction", zero
    if re.search(r"--v_parameterization\b|v_parameterization\W{1,3}true", _training(said)):
        return "v_prediction", zero
    return ("epsilon" if stated in ("epsilon", "eps") else None), zero


def _training(said: Mapping[str, str]) -> str:
    for key in ("ss_network_args", "ss_args", "ss_training_args"):
        value = said.get(key)
        if value:
            try:
                return json.dumps(json.loads(value))[:10_000].casefold()
            except (ValueError, RecursionError):
                return value[:10_000].casefold()
    return ""


def _dtype(tensors: object) -> str | None:
    counts: Counter[str] = Counter()
    for tensor in tensors:  # type: ignore[attr-defined]
        counts[tensor.dtype] += tensor.count
    return counts.most_common(1)[0][0] if counts else None
