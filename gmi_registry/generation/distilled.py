"""Models distilled to a few steps: what their families are generated with, and how they are known.

With the settings of an ordinary model such a one makes burnt or smeared images, and few cards say
how many steps are right. A model belongs to a family by its repository, by what its hub calls its
base, by its configuration, or, which is a guess, by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any

from gmi_registry.generation.advice import Carded
from gmi_registry.generation.pipelines import Pipeline

__all__ = ["Family", "FamilyAdvice", "family_advice", "looks_distilled"]


@dataclass(frozen=True)
class Family:
    """What one family is generated with.

    ``architectures`` are those of :func:`_architecture`. ``guidance`` None leaves the pipeline's
    own; ``scheduler`` is a name as ``--scheduler`` takes it, with ``settings`` of its own beside
    it. ``words`` is a pattern for a name in the spelling of :func:`_plain`; ``weak`` ones mean
    other things as well, so that alone they say nothing of a LoRA. ``repositories`` are ids on
    Hugging Face, ``bases`` Civitai's names, both in lower case. ``lora_scale`` is the strength that
    a LoRA was made for, where that is not 1.
    """

    title: str
    architectures: tuple[str, ...]
    steps: int
    guidance: float | None
    scheduler: str | None = None
    words: str = ""
    weak: bool = False
    repositories: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    lora_scale: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FamilyAdvice:
    """``family``, with the number of steps that the model's name states, else the family's.

    ``certain`` is False for a guess; ``why`` says in a few words how it is known.
    """

    family: Family
    steps: int
    certain: bool
    why: str

    @property
    def origin(self) -> str:
        """As the origin of a setting."""
        how = "known family" if self.certain else "a guess"
        return f"{how}: {self.family.title}, by {self.why}"


_TURBO = r"\bturbo\b"
_HYPER = (
    r"\bhyper (?:sdxl|sd|xl|flux|lora|\d+ ?steps?)|\bhypers(?:d|dxl)\b|\b\d+ ?steps? hyper\b"
    r"|(?:xl|sd|dev|\d) hyper\b(?! ?(?:real|detail|focus|color|colour))|\bhyper$"
)

# Steps and guidance are those of the authors' own examples; where those name a range, four or its
# upper end: SDXL Turbo makes an image in one step, and a better one in four. The first that fits
# wins.
_FAMILIES = (
    Family(
        "SDXL Turbo", ("sdxl",), 4, 0.0, "Euler a Trailing", _TURBO, True,
        ("stabilityai/sdxl-turbo",), ("sdxl turbo",),
    ),
    Family("SD Turbo", ("sd",), 4, 0.0, "Euler a Trailing", _TURBO, True,
           ("stabilityai/sd-turbo",)),
    Family(
        "SDXL Lightning", ("sdxl",), 4, 0.0, "Euler Trailing", r"\blightning\b", True,
        ("bytedance/sdxl-lightning",), ("sdxl lightning",),
    ),
    Family("Hyper-SD with guidance", ("sdxl", "sd"), 8, 5.0, "DDIM Trailing",
           rf"(?:{_HYPER}).*\bcfg\b"),
    Family(
        "Hyper-SD", ("sdxl", "sd"), 8, 0.0, "DDIM Trailing", _HYPER, False,
        ("bytedance/hyper-sd",), ("sdxl hyper", "sd 1.5 hyper"),
    ),
    Family("Hyper-FLUX", ("flux",), 8, 3.5, None, _HYPER, False, ("bytedance/hyper-sd",),
           lora_scale=0.125),
    Family("Hyper-SD3", ("sd3",), 8, 5.0, None, _HYPER, False, ("bytedance/hyper-sd",),
           lora_scale=0.125),
    Family("DMD2", ("sdxl", "sd"), 4, 0.0, "LCM", r"\bdmd ?2?\b", False, ("tianweiy/dmd2",)),
    Family(
        "LCM", ("sdxl", "sd"), 4, 1.0, "LCM", r"\blcm\b", False,
        ("latent-consistency/lcm-lora-sdxl", "latent-consistency/lcm-lora-sdv1-5",
         "latent-consistency/lcm-lora-ssd-1b", "segmind/segmind-vegart",
         "latent-consistency/lcm-sdxl", "latent-consistency/lcm-ssd-1b",
         "simianluo/lcm_dreamshaper_v7"),
        ("sdxl 1.0 lcm", "sd 1.5 lcm"),
    ),
    Family(
        "PixArt LCM", ("pixart",), 4, 0.0, "LCM", r"\blcm\b", False,
        ("pixart-alpha/pixart-lcm-xl-2-1024-ms", "pixart-alpha/pixart-lcm-lora-xl-2-1024-ms"),
    ),
    Family("PixArt DMD", ("pixart",), 1, 1.0, None, r"\bdmd\b", False,
           ("pixart-alpha/pixart-alpha-dmd-xl-2-512x512",)),
    Family("TCD", ("sdxl", "sd"), 4, 0.0, "TCD", r"\btcd\b", False,
           ("h1t/tcd-sdxl-lora", "h1t/tcd-sd15-lora", "h1t/tcd-sd21-base-lora")),
    Family("PCM", ("sdxl", "sd"), 4, 1.0, "DDIM Trailing", r"\bpcm\b", False,
           ("wangfuyun/pcm_weights",)),
    Family("SDXS", ("sd",), 1, 0.0, None, r"\bsdxs\b", False,
           ("idkiro/sdxs-512-0.9", "idkiro/sdxs-512-dreamshaper")),
    Family("Flash Diffusion", ("sdxl", "sd", "pixart"), 4, 0.0, "LCM Trailing", r"\bflash\b", True,
           ("jasperai/flash-sdxl", "jasperai/flash-sd", "jasperai/flash-pixart")),
    Family("Flash Diffusion", ("sd3",), 4, 0.0, None, r"\bflash\b", True, ("jasperai/flash-sd3",)),
    Family(
        "SD 3.5 Medium Turbo", ("sd3",), 8, 1.5, None, r"\bmedium\b.*\bturbo\b", False,
        ("tensorart/stable-diffusion-3.5-medium-turbo",),
    ),
    Family(
        "SD 3.5 Large Turbo", ("sd3",), 4, 0.0, None, _TURBO, True,
        ("stabilityai/stable-diffusion-3.5-large-turbo",), ("sd 3.5 large turbo",),
    ),
    Family(
        "FLUX.1 schnell", ("flux",), 4, None, None, r"\bschnell\b", False,
        ("black-forest-labs/flux.1-schnell",), ("flux.1 s",),
    ),
    Family("FLUX.1 Turbo", ("flux",), 8, 3.5, None, _TURBO, True,
           ("alimama-creative/flux.1-turbo-alpha",)),
    Family("FLUX.2 Turbo", ("flux2",), 8, 2.5, None, _TURBO, True, ("fal/flux.2-dev-turbo",)),
    Family(
        "FLUX.2 klein", ("flux2-klein",), 4, None, None, "", False,
        ("black-forest-labs/flux.2-klein-4b", "black-forest-labs/flux.2-klein-9b"),
        ("flux.2 klein 4b", "flux.2 klein 9b"),
    ),
    Family(
        "Z-Image-Turbo", ("z-image",), 8, 0.0, None, _TURBO, True,
        ("tongyi-mai/z-image-turbo",), ("zimageturbo",),
    ),
    Family(
        "Qwen-Image-Lightning", ("qwen-image",), 8, 1.0, "FlowMatchEulerDiscreteScheduler",
        r"\blightning\b", True, ("lightx2v/qwen-image-lightning",),
        settings={"base_shift": log(3), "max_shift": log(3), "shift": 1.0, "shift_terminal": None,
                  "use_dynamic_shifting": True, "time_shift_type": "exponential"},
    ),
    Family("HiDream-I1-Dev", ("hidream",), 28, 0.0, None, r"\bi1 dev\b", False,
           ("hidream-ai/hidream-i1-dev",)),
    Family("HiDream-I1-Fast", ("hidream",), 16, 0.0, None, r"\bi1 fast\b", False,
           ("hidream-ai/hidream-i1-fast",)),
    Family("Chroma1-Flash", ("chroma",), 8, 1.0, None, r"\bflash\b", True,
           ("lodestones/chroma1-flash",)),
    Family("Krea 2 Turbo", ("krea2",), 8, 0.0, None, _TURBO, True, ("krea/krea-2-turbo",)),
    Family("HunyuanImage distilled", ("hunyuan-image",), 8, 3.25, None, r"\bdistilled\b", False,
           ("hunyuanvideo-community/hunyuanimage-2.1-distilled-diffusers",)),
    Family("PRX distilled", ("prx",), 8, 1.0, None, r"\bdistilled\b"),
    Family("Sana-Sprint", ("sana-sprint",), 2, 4.5, None, r"\bsprint\b"),
)  # fmt: skip

_EMBEDDED_LCM = Family("LCM with guidance as an input", ("sdxl", "sd"), 4, 8.0, "LCM")

_ARCHITECTURES = (
    ("StableDiffusionXL", "sdxl"),
    ("StableDiffusion3", "sd3"),
    ("StableDiffusion", "sd"),
    ("LatentConsistencyModel", "sd"),
    ("Flux2Klein", "flux2-klein"),
    ("Flux2", "flux2"),
    ("Flux", "flux"),
    ("QwenImage", "qwen-image"),
    ("ZImage", "z-image"),
    ("PixArt", "pixart"),
    ("SanaSprint", "sana-sprint"),
    ("HiDream", "hidream"),
    ("Chroma", "chroma"),
    ("Krea2", "krea2"),
    ("HunyuanImage", "hunyuan-image"),
    ("PRX", "prx"),
)

_FEW = 16
"""Steps above which a number in a name says nothing of distillation."""

_NOT = r"(?:\b(?:non|no|not|without|un|anti|de|pre)\s)"
_COMPOUND = (
    r"(?:xl|sd|sdxl|sd15|image|dev|flux\w*|qwen|alpha|\d\w*) (?:turbo|lightning|flash)\b"
    r"|\b(?:turbo|lightning|flash) (?:alpha|lora)\b"
)
_SIGNS = re.compile(
    r"\b(?:turbo|lightning|lcm|dmd ?2?|distill\w*|schnell|sprint|tcd|pcm|sdxs|few ?steps?"
    r"|one ?step|flash)\b"
)
_STEPS = re.compile(r"\b(\d{1,2}) ?(?:steps?|nfe)\b")
_OTHER_STEPS = re.compile(r"\bsteps? ?(\d{1,2})\b")


def family_advice(model: Carded, pipeline: Pipeline) -> FamilyAdvice | None:
    """The family of ``model`` alone, whatever its base is; None where none is known.

    ``pipeline`` is the loaded one, of whose configuration counts what is the model's own.
    """
    architecture = _architecture(pipeline)
    families = [family for family in _FAMILIES if architecture in family.architectures]
    texts = dict(_texts(model))
    for family in families:
        why = _known_by(model, family)
        if why is not None:
            chosen = _variant(families, family, texts)
            # Civitai's authors name the base that a LoRA is for, which may be a distilled one.
            certain = not (_is_lora(model) and model.ref.hub == "civitai")
            return FamilyAdvice(chosen, _steps_in(texts) or chosen.steps, certain, why)
    by_name = None
    for what, text in texts.items():
        family_named = next((f for f in families if _says(f, text, what, _is_lora(model))), None)
        if family_named is not None:
            steps = _steps_in(texts) or family_named.steps
            by_name = FamilyAdvice(family_named, steps, False, what)
            break
    configured = _configured(model, pipeline, architecture, texts)
    if configured is not None and (by_name is None or configured.certain):
        return configured
    return by_name


def looks_distilled(model: Carded, pipeline: Pipeline) -> str | None:
    """What of ``model`` looks like distillation, in a few words, where no family is known."""
    for what, text in _texts(model, tags=True):
        found = _SIGNS.search(text)
        if found and not _denied(text, found.start()):
            return f"{what} says {found[0]!r}"
        steps = _STEPS.search(text)
        if steps and int(steps[1]) <= 12:
            return f"{what} says {steps[0]!r}"
    config = getattr(getattr(pipeline, "scheduler", None), "config", {})
    spaced = config.get("timestep_spacing") == "trailing"
    usual = config.get("prediction_type") == "epsilon" and not config.get("rescale_betas_zero_snr")
    if spaced and usual and model.base is None and _architecture(pipeline) in ("sd", "sdxl"):
        return "its scheduler spaces the steps as for a few of them (trailing)"
    return None


def _known_by(model: Carded, family: Family) -> str | None:
    """How it is certain that ``model`` is of ``family``; None where it is not."""
    named = (model.card.base_model or "").casefold()
    if model.ref.hub == "hf" and model.ref.id.casefold() in family.repositories:
        return "its repository"
    if model.ref.hub == "civitai":
        return f"Civitai's base model {model.card.base_model}" if named in family.bases else None
    if named and named.removeprefix("hf:") in family.repositories:
        return f"its base model {model.card.base_model}"
    return None


def _variant(families: list[Family], known: Family, texts: Mapping[str, str]) -> Family:
    """``known``, or a kind of it that shares its repository and that a file's name spells out."""
    first = known.title.partition(" ")[0]
    for family in families:
        kin = family.title.partition(" ")[0] == first and family.words
        if kin and any(re.search(family.words, text) for text in texts.values()):
            return family
    return known


def _says(family: Family, text: str, what: str, lora: bool) -> bool:
    if not family.words:
        return False
    found = re.search(family.words, text)
    if found is None or _denied(text, found.start()):
        return False
    # A LoRA may be of lightning, and a photograph be taken with a flash.
    if not family.weak or not (lora or what.startswith("a tag")):
        return True
    return _few_steps(text) is not None or re.search(_COMPOUND, text) is not None


def _denied(text: str, start: int) -> bool:
    return re.search(_NOT + "$", text[:start]) is not None


def _configured(
    model: Carded, pipeline: Pipeline, architecture: str, texts: Mapping[str, str]
) -> FamilyAdvice | None:
    """What the configuration says, where it is the model's own and not its base's."""
    if model.base is not None or any(re.search(_NOT + "distill", t) for t in texts.values()):
        return None

    def named(title: str) -> Family | None:
        return next(
            (f for f in _FAMILIES if f.title == title and architecture in f.architectures), None
        )

    scheduler = getattr(pipeline, "scheduler", None)
    config = getattr(scheduler, "config", {})
    kind = type(scheduler).__name__
    unet, transformer = (
        getattr(getattr(pipeline, part, None), "config", {}) for part in ("unet", "transformer")
    )
    still = not config.get("use_dynamic_shifting")
    found: Family | None = None
    certain, why = False, "its scheduler"
    if unet.get("time_cond_proj_dim") is not None:
        found, certain, why = _EMBEDDED_LCM, True, "its network, which takes guidance as an input"
    elif kind in ("LCMScheduler", "TCDScheduler"):
        found = named("LCM" if kind == "LCMScheduler" else "TCD") or (
            named("PixArt LCM") if kind == "LCMScheduler" else None
        )
        certain = True
    elif getattr(getattr(pipeline, "config", None), "is_distilled", False):
        found = named("FLUX.2 klein") or named("Krea 2 Turbo")
        certain, why = True, "its configuration (is_distilled)"
    elif kind == "EulerAncestralDiscreteScheduler" and config.get("timestep_spacing") == "trailing":
        found = named("SDXL Turbo") or named("SD Turbo")
    elif architecture == "flux" and transformer.get("guidance_embeds") is False:
        found = named("FLUX.1 schnell") if still and config.get("shift") == 1.0 else None
        why = "its network without guidance and its scheduler"
    elif architecture == "z-image" and still and config.get("shift") == 3.0:
        found = named("Z-Image-Turbo")
    elif architecture == "hidream" and kind == "FlowMatchLCMScheduler":
        found = named("HiDream-I1-Fast" if config.get("shift") == 3.0 else "HiDream-I1-Dev")
    if found is None:
        return None
    return FamilyAdvice(found, _steps_in(texts) or found.steps, certain, why)


def _architecture(pipeline: Pipeline) -> str:
    name = type(pipeline).__name__
    return next((word for start, word in _ARCHITECTURES if name.startswith(start)), name)


def _is_lora(model: Carded) -> bool:
    return getattr(model, "kind", None) in ("lora", "textual-inversion")


def _texts(model: Carded, *, tags: bool = False) -> Iterator[tuple[str, str]]:
    """What names the model, each with what it is, in the spelling of :func:`_plain`.

    Tags are read where the model is described alone: Civitai has one list for all versions.
    """
    seen: set[str] = set()
    named = [("its file name", model.ref.file or "")]
    kind = getattr(model, "kind", None)
    if kind in ("lora", "single-file"):
        weights = getattr(model, "weights", ())
        paths = list(weights) if isinstance(weights, Mapping) else [item.path for item in weights]
        named += [("its file name", Path(path).stem) for path in paths[:4]]
    if model.ref.hub != "civitai":
        named.append(("its name", model.ref.id.rpartition("/")[2]))
    named.append(("its title", model.card.title))
    if model.ref.hub != "civitai" or tags:
        named += [("a tag", tag) for tag in model.card.tags[:50]]
    keys: dict[str, int] = {}
    for what, text in named:
        plain = _plain(text)
        if plain and plain not in seen:
            seen.add(plain)
            keys[what] = keys.get(what, 0) + 1
            yield (what if keys[what] == 1 else f"{what} ({keys[what]})"), plain


def _plain(text: str) -> str:
    """Words in lower case with single spaces, those that are written together taken apart."""
    text = re.sub(r"\.(?:safetensors|gguf|ckpt|bin)$", "", text[:300])
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    return re.sub(r"[^a-z0-9]+", " ", text.casefold()).strip()


def _few_steps(text: str) -> int | None:
    for pattern in (_STEPS, _OTHER_STEPS):
        found = pattern.search(text)
        if found and 1 <= int(found[1]) <= _FEW:
            return int(found[1])
    return None


def _steps_in(texts: Mapping[str, str]) -> int | None:
    return next((steps for text in texts.values() if (steps := _few_steps(text))), None)
