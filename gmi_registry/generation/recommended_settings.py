"""Settings that are recommended for a model: by its card, or by the family of distilled models it
belongs to.

With the settings of an ordinary model one that was distilled to a few steps makes burnt or smeared
images, and few cards say how many steps are right. A model belongs to a family by its repository,
by what its hub calls its base, by its configuration, or, which is a guess, by its name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, overload

from gmi_registry.errors import HubError
from gmi_registry.generation.model_checks import Pipeline
from gmi_registry.model import ModelCard
from gmi_registry.spec import ModelRef
from gmi_registry.weights import read_header

_FEW = 16
"""Steps above which a number in a name says nothing of distillation."""
_NOT = r"(?:\b(?:non|no|not|without|un|anti|de|pre)\s)"
_COMPOUND = (
    r"(?:xl|sd|sdxl|sd15|image|dev|flux\w*|qwen|alpha|\d\w*) (?:turbo|lightning|flash)\b"
    r"|\b(?:turbo|lightning|flash) (?:alpha|lora)\b"
)
# What follows the kind of a model, where its name does not go on: "lightning storms" are none.
_AFTER_A_KIND = (
    r"$| (?:v ?\d|\d|steps?\b|dpm|euler|lcm|sde|lora\b|sdxl\b|xl\b|alpha\b|beta\b|final\b|fix\b"
    r"|mix\b|merge\b|model\b|edition\b|version\b|baked\b|vae\b|pruned\b|fp ?\d|bf ?\d|by\b|with\b)"
)
_SIGNS = re.compile(
    r"\b(?:turbo|lightning|lcm|dmd ?2?|distill\w*|schnell|sprint|tcd|pcm|sdxs|few ?steps?"
    r"|one ?step|flash)\b"
)
_STEPS = re.compile(r"\b(\d{1,2}) ?(?:steps?|nfe)\b")
_OTHER_STEPS = re.compile(r"\bsteps? ?(\d{1,2})\b")


class ModelWithCard(Protocol):
    """A model with its card and perhaps a base, on this disk or still on its hub."""

    @property
    def ref(self) -> ModelRef: ...
    @property
    def card(self) -> ModelCard: ...
    @property
    def base(self) -> ModelWithCard | None: ...


@overload
def recommended(
    model: ModelWithCard, field: Literal["prompt_set", "encoder", "prompt_template"]
) -> str | None: ...
@overload
def recommended(model: ModelWithCard, field: Literal["steps"]) -> int | None: ...
@overload
def recommended(model: ModelWithCard, field: Literal["guidance_scale"]) -> float | None: ...
def recommended(model: ModelWithCard, field: str) -> object:
    """A field of the card's ``gmi`` section: the model's own, else its base's, else None.

    A family shares one base, so that what is said there holds for adapters that say nothing.
    """
    found = recommending_model(model, field)
    return None if found is None else getattr(found.card, field)


def recommending_model(model: ModelWithCard, field: str) -> ModelWithCard | None:
    """Whose card it is that :func:`recommended` reads; None where none says anything."""
    described: ModelWithCard | None = model
    while described is not None:
        if getattr(described.card, field) is not None:
            return described
        described = described.base
    return None


@dataclass(frozen=True)
class DistilledFamily:
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
    guidance: float | None = None
    scheduler: str | None = None
    words: str = ""
    weak: bool = False
    repositories: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    lora_scale: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FamilySettings:
    """``family``, with the number of steps that the model's name states, else the family's.

    ``certain`` is False for a guess; ``why`` says in a few words how it is known.
    """

    family: DistilledFamily
    steps: int
    certain: bool
    why: str

    @property
    def origin(self) -> str:
        """As the origin of a setting."""
        how = "known family" if self.certain else "a guess"
        return f"{how}: {self.family.title}, by {self.why}"


class _Families(NamedTuple):
    """What ``distilled_families.toml`` holds; ``architectures`` are pairs of the beginning of a
    pipeline's class and a word."""

    families: tuple[DistilledFamily, ...]
    architectures: tuple[tuple[str, str], ...]


@cache
def _table() -> _Families:
    file = Path(__file__).with_name("distilled_families.toml")
    stored = tomllib.loads(file.read_text(encoding="utf-8"))
    families = []
    for entry in stored["family"]:
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
        }
        fields["settings"] = fields.get("settings", {}) | dict.fromkeys(fields.pop("unset", ()))
        for name, pattern in stored["patterns"].items():
            fields["words"] = fields.get("words", "").replace(name, pattern)
        families.append(DistilledFamily(**fields))
    return _Families(tuple(families), tuple(map(tuple, stored["architectures"])))


_EMBEDDED_LCM = DistilledFamily("LCM with guidance as an input", ("sdxl", "sd"), 4, 8.0, "LCM")


def family_settings(model: ModelWithCard, pipeline: Pipeline) -> FamilySettings | None:
    """The family of ``model`` alone, whatever its base is; None where none is known.

    ``pipeline`` is the loaded one, of whose configuration counts what is the model's own.
    """
    architecture = _architecture(pipeline)
    families = [family for family in _table().families if architecture in family.architectures]
    texts = dict(_texts(model))
    for family in families:
        why = _known_by(model, family)
        if why is not None:
            chosen = _variant(families, family, texts)
            # Civitai's authors name the base that a LoRA is for, which may be a distilled one.
            certain = not (_is_lora(model) and model.ref.hub == "civitai")
            return FamilySettings(chosen, _steps_in(texts) or chosen.steps, certain, why)
    by_name = None
    for what, text in texts.items():
        family_named = next((f for f in families if _says(f, text, what, _is_lora(model))), None)
        if family_named is not None:
            steps = _steps_in(texts) or family_named.steps
            by_name = FamilySettings(family_named, steps, False, what)
            break
    configured = _configured(model, pipeline, architecture, texts)
    if configured is not None and (by_name is None or configured.certain):
        return configured
    return by_name


def looks_distilled(model: ModelWithCard, pipeline: Pipeline) -> str | None:
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


def _known_by(model: ModelWithCard, family: DistilledFamily) -> str | None:
    """How it is certain that ``model`` is of ``family``; None where it is not."""
    named = (model.card.base_model or "").casefold()
    if model.ref.hub == "hf" and model.ref.id.casefold() in family.repositories:
        return "its repository"
    if model.ref.hub == "civitai":
        return f"Civitai's base model {model.card.base_model}" if named in family.bases else None
    if named and named.removeprefix("hf:") in family.repositories:
        return f"its base model {model.card.base_model}"
    return None


def _variant(
    families: list[DistilledFamily], known: DistilledFamily, texts: Mapping[str, str]
) -> DistilledFamily:
    """``known``, or a kind of it that shares its repository and that a file's name spells out."""
    first = known.title.partition(" ")[0]
    for family in families:
        kin = family.title.partition(" ")[0] == first and family.words
        if kin and any(re.search(family.words, text) for text in texts.values()):
            return family
    return known


def _says(family: DistilledFamily, text: str, what: str, lora: bool) -> bool:
    if not family.words:
        return False
    found = re.search(family.words, text)
    if found is None or _denied(text, found.start()):
        return False
    # A LoRA may be of lightning, and a photograph be taken with a flash.
    if not family.weak or _few_steps(text) is not None or re.search(_COMPOUND, text) is not None:
        return True
    of_a_thing = lora or what.startswith("a tag")
    return not of_a_thing and re.match(_AFTER_A_KIND, text[found.end() :]) is not None


def _denied(text: str, start: int) -> bool:
    return re.search(_NOT + "$", text[:start]) is not None


def _configured(
    model: ModelWithCard, pipeline: Pipeline, architecture: str, texts: Mapping[str, str]
) -> FamilySettings | None:
    """What the configuration says, where it is the model's own and not its base's."""
    if model.base is not None or any(re.search(_NOT + "distill", t) for t in texts.values()):
        return None

    def named(title: str) -> DistilledFamily | None:
        return next(
            (f for f in _table().families if f.title == title and architecture in f.architectures),
            None,
        )

    scheduler = getattr(pipeline, "scheduler", None)
    config = getattr(scheduler, "config", {})
    kind = type(scheduler).__name__
    unet, transformer = (
        getattr(getattr(pipeline, part, None), "config", {}) for part in ("unet", "transformer")
    )
    still = not config.get("use_dynamic_shifting")
    found: DistilledFamily | None = None
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
    return FamilySettings(found, _steps_in(texts) or found.steps, certain, why)


def _architecture(pipeline: Pipeline) -> str:
    name = type(pipeline).__name__
    return next((word for start, word in _table().architectures if name.startswith(start)), name)


def _is_lora(model: ModelWithCard) -> bool:
    return getattr(model, "kind", None) in ("lora", "textual-inversion")


def _texts(model: ModelWithCard, *, tags: bool = False) -> Iterator[tuple[str, str]]:
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
        named += [(f"its metadata ({key})", text) for key, text in _stated(model)]
    if model.ref.hub != "civitai":
        named.append(("its name", model.ref.id.rpartition("/")[2]))
    named.append(("its title", model.card.title))
    if model.ref.hub != "civitai" or tags:
        # Those with a colon are the hub's own: of the base, which is asked about itself.
        named += [("a tag", tag) for tag in model.card.tags[:50] if ":" not in tag]
    keys: dict[str, int] = {}
    for what, text in named:
        plain = _plain(text)
        if plain and plain not in seen:
            seen.add(plain)
            keys[what] = keys.get(what, 0) + 1
            yield (what if keys[what] == 1 else f"{what} ({keys[what]})"), plain


def _stated(model: ModelWithCard) -> Iterator[tuple[str, str]]:
    """What the file of a LoRA or a whole model in one file says of itself, where it is here."""
    path = getattr(model, "path", None)
    weights = getattr(model, "weights", ())
    if not isinstance(path, Path) or not weights or isinstance(weights, Mapping):
        return
    file = path if path.is_file() else path / weights[0].path
    try:
        metadata = read_header(file).metadata
    except (HubError, OSError):  # what loads the file says what is wrong with it
        return
    for key in ("modelspec.title", "modelspec.architecture", "ss_output_name"):
        if metadata.get(key):
            yield key, metadata[key]


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
