"""The table that answers "what is this file?" for what people share, by the names of its tensors.

A row names the patterns that all have to be found, and those that must not be. The first row that
fits counts, so that what contains another's layers comes first (a ControlNet has a UNet's). Layers
of networks, whole models and adapters are told by :mod:`.architectures` and :mod:`.adapters`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from gmi_registry.weights.keys import Keys

__all__ = ["DESCRIBED", "HINTS", "FileKind", "Part", "part_of"]

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

_BELONGS = "publish the model that it belongs to, not this part alone"
_NO_IMAGES = "it generates no images: name a checkpoint, a LoRA or a textual inversion"
_WITH_PICTURE = (
    "it generates images from another image, which a specification has none of: publish the model "
    "that it steers"
)
_UPLOAD = "download it again; if that does not help, its author must upload it again as safetensors"
HINTS: dict[str, str] = {
    "vae": "a VAE only decodes what a network generates: publish the checkpoint that it belongs to",
    "text-encoder": f"a text encoder generates no images: {_BELONGS}",
    "clip-vision": f"an image encoder generates no images: {_BELONGS}",
    "language-model": _NO_IMAGES,
    "controlnet": _WITH_PICTURE,
    "ip-adapter": _WITH_PICTURE,
    "style-model": _WITH_PICTURE,
    "motion-module": "it makes videos: name a model that generates images from texts",
    "upscaler": "it enlarges images: publish the model that generates them",
    "detector": _NO_IMAGES,
    "segmentation": _NO_IMAGES,
    "depth": _NO_IMAGES,
    "face-restoration": "it repairs faces in images: publish the model that generates them",
    "hypernetwork": "diffusers loads no hypernetworks: publish a LoRA or a checkpoint",
    "optimizer": "it is the state of a training run: publish the weights saved beside it",
    "aesthetic-gradient": "diffusers loads no aesthetic gradients: publish a LoRA or a checkpoint",
    "safety-checker": _NO_IMAGES,
    "scorer": _NO_IMAGES,
    "prior": f"a prior makes embeddings and no images: {_BELONGS}",
    "audio": _NO_IMAGES,
    "unknown": "name a diffusers folder, a checkpoint, a LoRA or a textual inversion; if this is "
    "one, tell which program wrote it",
}
"""The way out, by the kind of a file that no specification can be made of."""


class Part(NamedTuple):
    """``title`` has its article: "a VAE"."""

    kind: FileKind
    title: str


class _Row(NamedTuple):
    kind: FileKind
    title: str
    needs: tuple[str, ...]
    lacks: tuple[str, ...] = ()


def _row(kind: FileKind, title: str, *needs: str, lacks: str | None = None) -> _Row:
    return _Row(kind, title, needs, (lacks,) if lacks else ())


# Rows that come before networks and adapters, for they have layers of both.
_FIRST: tuple[_Row, ...] = (
    _row("optimizer", "the state of an optimizer", r"(?:^|[._])exp_avg(?:_sq)?(?:[._]|$)"),
    _row("controlnet", "a control-LoRA (a ControlNet as a LoRA)", r"^lora_controlnet$"),
    _row("controlnet", "a ControlNet-LLLite", r"^lllite_"),
    _row("controlnet", "a ControlNet union (for several kinds of control)",
         r"(?:^|\.)(?:task_embedding$|control_add_embedding\.|controlnet_mode_embedder\.)"),
    _row("controlnet", "a ControlNet", r"^(?:module\.)?control_model\."),
    _row("controlnet", "a ControlNet",
         r"(?:^|\.)(?:controlnet_cond_embedding|controlnet_(?:down_blocks|mid_block|blocks"
         r"|single_blocks|x_embedder|cond_embedder)|control_(?:all_x_embedder|layers|blocks"
         r"|noise_refiner)|input_hint_block|zero_convs)\."),
    _row("controlnet", "a T2I-Adapter",
         r"^(?:adapters\.#\.)?(?:adapter\.)?body\.#\.(?:block1|in_conv|resnets\.#\.block1)\."),
    _row("controlnet", "a T2I-Adapter for styles", r"^transformer_layes\.#\."),
    _row("ip-adapter", "a PhotoMaker adapter", r"^id_encoder\."),
    _row("ip-adapter", "a PuLID adapter", r"^(?:pulid_ca|id_adapter|pulid_encoder)"),
    _row("ip-adapter", "an IP-Adapter",
         r"(?:^|[._])to_[kv]_ip\.|^ip_adapter\.|ip_adapter_(?:double|single)_stream"
         r"|^image_proj(?:_model)?\.|^ip_adapter_proj_model\."),
    _row("style-model", "a FLUX.1 Redux model (which makes prompts of images)",
         r"^redux_(?:up|down)\."),
    _row("motion-module", "a motion LoRA for AnimateDiff", r"motion_modules\..*[._]lora[._]"),
    _row("motion-module", "a motion module for AnimateDiff", r"(?:^|\.)motion_modules\.#\.",
         lacks=r"(?:^|\.)(?:conv_in|input_blocks\.#\.#)\."),
    _row("safety-checker", "a safety checker", r"^(?:concept|special_care)_embeds$"),
    _row("prior", "a prior (unCLIP)", r"^(?:prior\.)?(?:prd_embedding|clip_mean)$"),
)  # fmt: skip
_TINY_VAE = "a TAESD (a tiny VAE for previews)"
_CLIP = "a CLIP model (its image and its text encoder)"
_LANGUAGE = "a language model (a text encoder such as Qwen, Gemma or Llama)"
_REST: tuple[_Row, ...] = (
    # What repairs faces has the layers of a VAE.
    _row("face-restoration", "a face restoration model (CodeFormer)",
         r"(?:^|\.)(?:fuse_convs_dict|ft_layers)\."),
    _row("face-restoration", "a face restoration model (GFPGAN)", r"(?:^|\.)stylegan_decoder"),
    _row("face-restoration", "a face restoration model (RestoreFormer)",
         r"(?:^|\.)quantize\.embedding\.", r"(?:^|\.)decoder\.up\.#\.attn\.#\.norm2\."),
    # Decoders of latents.
    _row("vae", _TINY_VAE, r"^taesd_(?:encoder|decoder)\.#"),
    _row("vae", _TINY_VAE, r"^(?:encoder|decoder)\.(?:layers\.)?#\.conv\.#\."),
    _row("vae", _TINY_VAE, r"^#\.conv\.#\.(?:weight|bias)$"),
    _row("vae", "a VAE (VQ)", r"(?:^|\.)quantize\.embedding\.", r"(?:^|\.)(?:encoder|decoder)\."),
    _row("vae", "a VAE",
         r"(?:^|\.)decoder\.(?:up\.#\.block|up_blocks\.#\.|middle\.#\.residual|upsamples\.#\."
         r"|stages\.#\.|mid_block\.|mid\.block_#|mid\.block_\d)"),
    _row("vae", "the encoder of a VAE",
         r"(?:^|\.)encoder\.(?:down\.#\.block|down_blocks\.#\.|downsamples\.#\.|stages\.#\.op)"),
    _row("audio", "a VAE for sound", r"^(?:encoder|decoder)\..*\.weight_[gv]$"),
    # Detectors and the like.
    _row("segmentation", "a SAM model (which cuts out what is pointed at)",
         r"(?:^|\.)(?:sam_)?mask_decoder\.", r"(?:^|\.)(?:sam_)?prompt_encoder\."),
    _row("detector", "a detector (Grounding DINO)",
         r"encoder\.fusion_layers\.#|encoder\.layers\.#\.fusion_layer\."),
    _row("detector", "a detector",
         r"(?:^|\.)(?:detection_tokens$|class_labels_classifier\.|bbox_embed\.)"),
    _row("detector", "a detector (YOLO)", r"(?:^|\.)#\.(?:cv\d|dfl|m\.#\.cv\d|detect)\."),
    _row("depth", "a depth estimator",
         r"^(?:depth_head|pretrained\.(?:model|blocks)|core\.core)\."
         r"|^neck\.(?:reassemble|fusion)_stage\.|^scratch\."),
    _row("segmentation", "a background remover",
         r"^(?:module\.)?(?:bb\.layers|squeeze_module|stage\d\.rebnconv)"),
    _row("segmentation", "a segmentation model", r"^(?:decode_head|segformer)\."),
    # Text and image encoders.
    _row("clip-vision", _CLIP, r"(?:^|\.)vision_model\.", r"(?:^|\.)text_model\."),
    _row("clip-vision", _CLIP, r"^visual\.(?:transformer|conv1|trunk|class_embedding|positional)",
         r"^(?:text\.)?(?:transformer\.resblocks\.#|token_embedding)"),
    _row("scorer", "a captioner of images", r"(?:^|\.)text_decoder\.", r"(?:^|\.)vision_model\."),
    _row("clip-vision", "a CLIP image encoder", r"^embeddings\.patch_embedding\.",
         r"^encoder\.layers\.#\.self_attn\."),
    _row("clip-vision", "a CLIP image encoder",
         r"(?:^|\.)vision_model\.(?:encoder|embeddings)\.|^visual\.transformer\.resblocks\.#"),
    _row("clip-vision", "an image encoder (DINOv2)",
         r"(?:^|\.)encoder\.layer\.#\.layer_scale1|^blocks\.#\.ls1\.gamma"),
    _row("text-encoder", "a T5 text encoder",
         r"(?:^|\.)encoder\.block\.#\.layer\.#\.SelfAttention\.|^enc\.blk\.#\.attn_q"),
    _row("text-encoder", "a CLIP text encoder",
         r"(?:^|\.)text_model\.(?:encoder\.layers\.#|embeddings)\."),
    _row("text-encoder", "a CLIP text encoder (OpenCLIP)",
         r"(?:^|\.)transformer\.resblocks\.#\.",
         r"(?:^|\.)(?:token_embedding|text_projection|positional_embedding)"),
    _row("text-encoder", "a CLIP text encoder",
         r"^encoder\.layers\.#\.self_attn\.", r"^embeddings\.(?:token|position)_embedding\."),
    _row("text-encoder", "a text encoder (ChatGLM)",
         r"(?:^|\.)encoder\.layers\.#\.self_attention\.query_key_value\."),
    _row("text-encoder", "a text encoder (BERT)", r"(?:^|\.)embeddings\.word_embeddings\.",
         r"(?:^|\.)encoder\.layer\.#\.attention\.self\.query\."),
    _row("language-model", "a vision language model (such as the text encoder of Qwen-Image)",
         r"(?:^|\.)(?:visual\.blocks|vision_tower\.\w+)", r"(?:^|\.)layers\.#\.self_attn\."),
    _row("language-model", _LANGUAGE, r"(?:^|\.)layers\.#\.self_attn\.(?:q|qkv)_proj\.",
         r"(?:^|\.)layers\.#\.mlp\.|(?:^|\.)embed_tokens\."),
    _row("language-model", _LANGUAGE, r"^blk\.#\.", r"^token_embd\."),
    _row("language-model", "a language model", r"^(?:transformer\.)?h\.#\.(?:attn|ln_1|mlp)\."),
    # What judges images, and what enlarges them.
    _row("scorer", "a classifier of images",
         r"^(?:head\.(?:weight|fc)|classifier\.(?:weight|bias|#)|fc\.(?:weight|bias))"),
    _row("scorer", "an aesthetic scorer", r"^layers\.#\.weight$"),
    _row("upscaler", "an upscaler (ESRGAN)", r"\.rdb\d\.|\.RDB\d\.|RRDB_trunk|\.sub\.#\."),
    _row("upscaler", "an upscaler (SwinIR, HAT, DAT or the like)",
         r"^swin2sr\.|^(?:params(?:_ema)?\.)?(?:layers\.#\.(?:residual_group|blocks)\.|conv_after_body\."
         r"|conv_before_upsample\.)"),
    _row("upscaler", "an upscaler (compact)", r"^(?:params(?:_ema)?\.)?body\.#\.(?:weight|bias)$"),
    _row("upscaler", "an upscaler",
         r"(?:^|\.)(?:conv_(?:first|last|up\d)|upconv\d|upsampler|to_img|block_\d\.c\d_r|feats\.#"
         r"|initial_conv)\."),
    _row("hypernetwork", "a hypernetwork", r"^(?:#|\d+)(?:\.(?:#|[01]))?\.linear"),
    _row("aesthetic-gradient", "an aesthetic gradient", r"(?i)aesthetic"),
    _row("audio", "a model for sound", r"(?i)vocoder|wav2vec|hubert|^(?:enc_p|enc_q|flow\.flows)"),
)  # fmt: skip


def part_of(keys: Keys, *, first: bool) -> Part | None:
    """What part or other model these tensors make, by the table; None where no row fits.

    ``first`` looks at the rows that hold layers of networks or adapters, else at the others.
    """
    for row in _FIRST if first else _REST:
        if keys.has(*row.needs) and not keys.has_any(*row.lacks):
            return Part(row.kind, row.title)
    return None
