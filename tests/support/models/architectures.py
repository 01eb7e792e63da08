"""One builder for each architecture that generates images from text alone.

A builder makes the pipeline of diffusers' own classes, with the components, the scheduler and the
settings of the real repositories, and random weights of a few hundred kB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tests.support.models.text import (
    WIDTH,
    bert_encoder,
    bert_tokenizer,
    byte_tokenizer,
    chatglm,
    clip_encoder,
    clip_tokenizer,
    clip_vision,
    decoder_config,
    gemma_tokenizer,
    glm_tokenizer,
    llama_tokenizer,
    randomise,
    t5_encoder,
    t5_tokenizer,
)

__all__ = ["ARCHITECTURES", "SIZES", "flux_parts", "sd_parts", "sd_unet", "sdxl_parts", "vae"]

Parts = dict[str, Any]
ARCHITECTURES: dict[str, Callable[[Path], Any]] = {}
"""Name to the builder of its pipeline; the folder is for files that a component is made from."""


def _architecture(name: str) -> Callable[..., Any]:
    def register(build: Callable[[Path], Any]) -> Callable[[Path], Any]:
        ARCHITECTURES[name] = build
        return build

    return register


SIZES: dict[str, tuple[int, int]] = {
    "deepfloyd-if": (32, 32),
    "hidream": (128, 128),  # every size becomes one of the area of the default size
}
"""Width and height in pixels where 64 is none: as small as the architecture lets them be."""

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def vae(kind: Any = None, *, quantised: bool = True, levels: int = 2, **more: Any) -> Any:
    """An autoencoder of 4 channels, with 2 ** (levels - 1) times as many pixels a side as latents.

    Two levels make the smallest images; four have the factor 8 that some pipelines count on.
    """
    kind = kind or diffusers.AutoencoderKL
    return randomise(
        kind(
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=32,
            latent_channels=4,
            use_quant_conv=quantised,
            use_post_quant_conv=quantised,
            **more,
        )
    )


def _flow_vae(levels: int = 2, **more: Any) -> Any:
    return vae(levels=levels, quantised=False, shift_factor=0.1, scaling_factor=0.4, **more)


def _flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


def _dynamic_flow() -> Any:
    """With a shift that follows the size of the image, as FLUX.1's and others' have."""
    return _flow(use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15)


# What the small networks of several architectures have in common.
_STREAMS: Parts = {
    "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1,
    "attention_head_dim": 16, "num_attention_heads": 2,
}  # fmt: skip
_BLOCKS: Parts = {
    "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2,
    "attention_head_dim": 8, "num_attention_heads": 2,
}  # fmt: skip
_GLM: Parts = _BLOCKS | {
    "text_embed_dim": WIDTH, "time_embed_dim": 8, "condition_dim": 4, "pos_embed_max_size": 32,
}  # fmt: skip
_SIZED_UNET: Parts = {
    "attention_head_dim": (2, 4), "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "transformer_layers_per_block": (1, 2),
}  # fmt: skip
_SIMPLE_UNET: Parts = {
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "encoder_hid_dim": WIDTH,
    "resnet_time_scale_shift": "scale_shift", "class_embed_type": None,
}  # fmt: skip


# ---- Stable Diffusion


def sd_unet(**more: Any) -> Any:
    settings: Parts = {
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return randomise(diffusers.UNet2DConditionModel(**settings | more))


def sd_parts(scheduler: Any = None, **network: Any) -> Parts:
    return {
        "vae": vae(),
        "text_encoder": clip_encoder(),
        "tokenizer": clip_tokenizer(),
        "unet": sd_unet(**network),
        "scheduler": scheduler
        or diffusers.PNDMScheduler(
            **BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


@_architecture("sd15")
def _sd15(_: Path) -> Any:
    return diffusers.StableDiffusionPipeline(**sd_parts())


def _sd2_parts(prediction: str) -> Parts:
    scheduler = diffusers.DDIMScheduler(
        **BETAS,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    return sd_parts(scheduler, use_linear_projection=True, attention_head_dim=(2, 4))


@_architecture("sd2")
def _sd2(_: Path) -> Any:
    return diffusers.StableDiffusionPipeline(**_sd2_parts("epsilon"))


@_architecture("sd2-v")
def _sd2_v(_: Path) -> Any:
    return diffusers.StableDiffusionPipeline(**_sd2_parts("v_prediction"))


@_architecture("lcm")
def _lcm(_: Path) -> Any:
    parts = sd_parts(diffusers.LCMScheduler(**BETAS), time_cond_proj_dim=16)
    return diffusers.LatentConsistencyModelPipeline(**parts)


def _wide_clip() -> Any:
    """OpenCLIP's of SDXL and SD 3: wider than its neighbour, by which single files are read."""
    return clip_encoder(projected=True, width=2 * WIDTH, projection=2 * WIDTH)


def sdxl_parts(scheduler: Any = None, **network: Any) -> Parts:
    settings = _SIZED_UNET | {
        "cross_attention_dim": 3 * WIDTH,
        "projection_class_embeddings_input_dim": 6 * 8 + 2 * WIDTH,
    }
    return {
        "vae": vae(force_upcast=True),
        "text_encoder": clip_encoder(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": _wide_clip(),
        "tokenizer_2": clip_tokenizer(pad="!"),
        "unet": sd_unet(**settings | network),
        "scheduler": scheduler
        or diffusers.EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
    }


@_architecture("sdxl")
def _sdxl(_: Path) -> Any:
    return diffusers.StableDiffusionXLPipeline(**sdxl_parts())


def _sd3_pipeline(**network: Any) -> Any:
    settings = _BLOCKS | {
        "caption_projection_dim": 16,
        "joint_attention_dim": 3 * WIDTH,
        "pooled_projection_dim": 3 * WIDTH,
        "pos_embed_max_size": 32,
    }
    encoder = clip_encoder(projected=True)
    with torch.no_grad():  # as single files have it, which leave it out
        encoder.text_projection.weight.copy_(torch.eye(WIDTH))
    return diffusers.StableDiffusion3Pipeline(
        transformer=randomise(diffusers.SD3Transformer2DModel(**settings | network)),
        scheduler=_flow(shift=3.0),
        vae=_flow_vae(),
        text_encoder=encoder,
        tokenizer=clip_tokenizer(),
        text_encoder_2=_wide_clip(),
        tokenizer_2=clip_tokenizer(pad="!"),
        text_encoder_3=t5_encoder(3 * WIDTH),
        tokenizer_3=t5_tokenizer(),
    )


@_architecture("sd3")
def _sd3(_: Path) -> Any:
    return _sd3_pipeline()


@_architecture("sd3.5")
def _sd35(_: Path) -> Any:
    """SD 3.5 Medium: normalised queries and keys, and two attentions in the first blocks."""
    return _sd3_pipeline(qk_norm="rms_norm", dual_attention_layers=(0,))


# ---- Black Forest Labs, and what is made from their models


def flux_parts(scheduler: Any = None, **network: Any) -> Parts:
    settings = _STREAMS | {
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "axes_dims_rope": [4, 4, 8],
        "guidance_embeds": True,
    }
    return {
        "scheduler": scheduler or _dynamic_flow(),
        "vae": _flow_vae(),
        "text_encoder": clip_encoder(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5_encoder(),
        "tokenizer_2": t5_tokenizer(),
        "transformer": randomise(diffusers.FluxTransformer2DModel(**settings | network)),
    }


@_architecture("flux1-dev")
def _flux1_dev(_: Path) -> Any:
    return diffusers.FluxPipeline(**flux_parts())


@_architecture("flux1-schnell")
def _flux1_schnell(_: Path) -> Any:
    parts = flux_parts(_flow(shift=1.0), guidance_embeds=False)
    return diffusers.FluxPipeline(**parts)


def _flux2_network(joint: int, *, guidance: bool) -> Any:
    return randomise(
        diffusers.Flux2Transformer2DModel(
            **_STREAMS,
            joint_attention_dim=joint,
            axes_dims_rope=[4, 4, 4, 4],
            guidance_embeds=guidance,
        )
    )


def _flux2_vae() -> Any:
    return vae(diffusers.AutoencoderKLFlux2, quantised=False)


@_architecture("flux2-dev")
def _flux2_dev(_: Path) -> Any:
    """Its tokenizer is a processor of images and texts; hidden states 10, 20 and 30 are read."""
    words = byte_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    processor = transformers.PixtralProcessor(
        transformers.PixtralImageProcessor(),
        words,
        patch_size=8,
        chat_template=words.chat_template,
    )
    text = decoder_config(len(words), layers=31, model_type="mistral", max_position_embeddings=1024)
    picture = {
        "model_type": "pixtral",
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "patch_size": 8,
        "num_attention_heads": 4,
        "intermediate_size": WIDTH,
        "image_size": 32,
    }
    config = transformers.Mistral3Config(
        text_config=text, vision_config=picture, image_token_index=1
    )
    return diffusers.Flux2Pipeline(
        scheduler=_dynamic_flow(),
        vae=_flux2_vae(),
        text_encoder=randomise(transformers.Mistral3ForConditionalGeneration(config)),
        tokenizer=processor,
        transformer=_flux2_network(3 * WIDTH, guidance=True),
    )


def _flux2_klein(*, distilled: bool) -> Any:
    words = byte_tokenizer()
    config = transformers.Qwen3Config(**decoder_config(len(words), layers=28))
    return diffusers.Flux2KleinPipeline(
        scheduler=_dynamic_flow(),
        vae=_flux2_vae(),
        text_encoder=randomise(transformers.Qwen3ForCausalLM(config)),
        tokenizer=words,
        transformer=_flux2_network(3 * WIDTH, guidance=False),
        is_distilled=distilled,
    )


@_architecture("flux2-klein")
def _flux2_klein_distilled(_: Path) -> Any:
    return _flux2_klein(distilled=True)


@_architecture("flux2-klein-base")
def _flux2_klein_base(_: Path) -> Any:
    return _flux2_klein(distilled=False)


@_architecture("chroma")
def _chroma(_: Path) -> Any:
    network = diffusers.ChromaTransformer2DModel(
        **_STREAMS,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        approximator_hidden_dim=16,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return diffusers.ChromaPipeline(
        scheduler=_flow(shift=1.0),
        vae=_flow_vae(),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        transformer=randomise(network),
    )


# ---- transformers with one text encoder


def _pixart_network() -> Any:
    return randomise(
        diffusers.PixArtTransformer2DModel(
            sample_size=32,  # for which the pipeline knows sizes: 256 pixels; real ones have 128
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=WIDTH,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            attention_bias=True,
            num_embeds_ada_norm=1000,
            use_additional_conditions=False,
            interpolation_scale=1,
        )
    )


def _pixart(kind: Any, length: int) -> Any:
    return kind(
        tokenizer=t5_tokenizer(length),
        text_encoder=t5_encoder(),
        vae=vae(levels=4),
        transformer=_pixart_network(),
        # By its own an untrained one explodes.
        scheduler=diffusers.DPMSolverMultistepScheduler(**BETAS),
    )


@_architecture("pixart-alpha")
def _pixart_alpha(_: Path) -> Any:
    return _pixart(diffusers.PixArtAlphaPipeline, 120)


@_architecture("pixart-sigma")
def _pixart_sigma(_: Path) -> Any:
    return _pixart(diffusers.PixArtSigmaPipeline, 300)


def _gemma2(words: int) -> Any:
    config = transformers.Gemma2Config(**decoder_config(words, max_position_embeddings=8192))
    return randomise(transformers.Gemma2Model(config))


def _sana_parts(**network: Any) -> Parts:
    words = gemma_tokenizer()
    settings: Parts = {
        "patch_size": 1,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "sample_size": 16,  # for which the pipeline knows sizes: 512 pixels
    }
    coder = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=(*("ResBlock",) * 5, "EfficientViTBlock"),
        decoder_block_types=(*("ResBlock",) * 5, "EfficientViTBlock"),
        encoder_block_out_channels=(4,) * 6,
        decoder_block_out_channels=(4,) * 6,
        encoder_qkv_multiscales=(*((),) * 5, (5,)),
        decoder_qkv_multiscales=(*((),) * 5, (5,)),
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(0, *(1,) * 5),
        scaling_factor=0.41407,
    )
    return {
        "tokenizer": words,
        "text_encoder": _gemma2(len(words)),
        "vae": randomise(coder),
        "transformer": randomise(diffusers.SanaTransformer2DModel(**settings | network)),
        "scheduler": _flow(shift=3.0),
    }


@_architecture("sana")
def _sana(_: Path) -> Any:
    return diffusers.SanaPipeline(**_sana_parts())


@_architecture("sana-sprint")
def _sana_sprint(_: Path) -> Any:
    parts = _sana_parts(guidance_embeds=True, qk_norm="rms_norm_across_heads", sample_size=32)
    return diffusers.SanaSprintPipeline(**parts | {"scheduler": diffusers.SCMScheduler()})


@_architecture("auraflow")
def _auraflow(_: Path) -> Any:
    network = diffusers.AuraFlowTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=WIDTH,
        pos_embed_max_size=1024,
    )
    return diffusers.AuraFlowPipeline(
        tokenizer=t5_tokenizer(2048),
        text_encoder=t5_encoder(multilingual=True),
        vae=vae(),
        transformer=randomise(network),
        scheduler=_flow(shift=1.73),
    )


@_architecture("lumina2")
def _lumina2(_: Path) -> Any:
    words = gemma_tokenizer()
    network = diffusers.Lumina2Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(1024, 128, 128),
        cap_feat_dim=WIDTH,
    )
    return diffusers.Lumina2Pipeline(
        transformer=randomise(network),
        scheduler=_flow(shift=6.0),
        vae=_flow_vae(levels=4),
        text_encoder=_gemma2(len(words)),
        tokenizer=words,
    )


@_architecture("hidream")
def _hidream(_: Path) -> Any:
    network = diffusers.HiDreamImageTransformer2DModel(
        patch_size=8,  # real: 2, of which 4,096 would make an image
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=[4, 2, 2],
        max_resolution=[32, 32],
        llama_layers=[0, 1],
    )
    words = llama_tokenizer()
    config = transformers.LlamaConfig(**decoder_config(len(words)))
    return diffusers.HiDreamImagePipeline(
        scheduler=_flow(shift=3.0),
        vae=_flow_vae(levels=1, mid_block_add_attention=False),  # of 16,384 latents
        text_encoder=clip_encoder(projected=True, length=248),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(projected=True, length=218),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(),
        tokenizer_3=t5_tokenizer(),
        text_encoder_4=randomise(transformers.LlamaForCausalLM(config)),
        tokenizer_4=words,
        transformer=randomise(network),
    )


@_architecture("hunyuandit")
def _hunyuandit(_: Path) -> Any:
    words = bert_tokenizer()
    network = diffusers.HunyuanDiT2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=WIDTH,
        hidden_size=16,
        activation_fn="gelu-approximate",
    )
    return diffusers.HunyuanDiTPipeline(
        vae=vae(levels=4),
        text_encoder=bert_encoder(len(words)),
        tokenizer=words,
        transformer=randomise(network),
        scheduler=diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.02, prediction_type="v_prediction", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(256),
    )


@_architecture("kolors")
def _kolors(folder: Path) -> Any:
    encoder, words = chatglm(folder)
    network = sd_unet(
        **_SIZED_UNET,
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    return diffusers.KolorsPipeline(
        vae=vae(),
        text_encoder=encoder,
        tokenizer=words,
        unet=network,
        scheduler=diffusers.EulerDiscreteScheduler(**BETAS, steps_offset=1),
        force_zeros_for_empty_prompt=False,
    )


@_architecture("cogview4")
def _cogview4(_: Path) -> Any:
    words = glm_tokenizer()
    network = diffusers.CogView4Transformer2DModel(
        **_GLM,
        rope_axes_dim=(16, 16),
    )
    config = transformers.GlmConfig(**decoder_config(len(words)))
    return diffusers.CogView4Pipeline(
        tokenizer=words,
        text_encoder=randomise(transformers.GlmModel(config)),
        vae=vae(),
        transformer=randomise(network),
        scheduler=_flow(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
    )


@_architecture("cogview3plus")
def _cogview3plus(_: Path) -> Any:
    network = diffusers.CogView3PlusTransformer2DModel(**_GLM)
    return diffusers.CogView3PlusPipeline(
        tokenizer=t5_tokenizer(224),
        text_encoder=t5_encoder(),
        vae=vae(),
        transformer=randomise(network),
        scheduler=diffusers.CogVideoXDDIMScheduler(
            **BETAS, prediction_type="v_prediction", timestep_spacing="trailing"
        ),
    )


@_architecture("qwen-image")
def _qwen_image(_: Path) -> Any:
    words = byte_tokenizer()
    network = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    coder = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    picture = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=decoder_config(len(words), rope_scaling=rope), vision_config=picture
    )
    return diffusers.QwenImagePipeline(
        scheduler=_dynamic_flow(),
        vae=randomise(coder),
        text_encoder=randomise(transformers.Qwen2_5_VLForConditionalGeneration(config)),
        tokenizer=words,
        transformer=randomise(network),
    )


@_architecture("z-image")
def _z_image(_: Path) -> Any:
    words = byte_tokenizer()
    network = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 128, 128],
    )
    config = transformers.Qwen3Config(**decoder_config(len(words)))
    return diffusers.ZImagePipeline(
        scheduler=_flow(shift=3.0),
        vae=_flow_vae(),
        text_encoder=randomise(transformers.Qwen3Model(config)),
        tokenizer=words,
        transformer=randomise(network),
    )


# ---- models of several networks


def _movq() -> Any:
    return randomise(
        diffusers.VQModel(
            block_out_channels=[32] * 4,
            down_block_types=["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"],
            up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            norm_type="spatial",
            num_vq_embeddings=12,
            vq_embed_dim=4,
        )
    )


@_architecture("kandinsky3")
def _kandinsky3(_: Path) -> Any:
    network = diffusers.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=8,
        groups=4,
        attention_head_dim=8,
        layers_per_block=2,
        block_out_channels=(16, 32),
        cross_attention_dim=8,
        encoder_hid_dim=WIDTH,
    )
    return diffusers.Kandinsky3Pipeline(
        tokenizer=t5_tokenizer(128),
        text_encoder=t5_encoder(),
        unet=randomise(network),
        scheduler=diffusers.DDPMScheduler(),
        movq=_movq(),
    )


@_architecture("kandinsky2.2")
def _kandinsky22(_: Path) -> Any:
    prior = diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        embedding_dim=WIDTH,
        num_embeddings=77,
        additional_embeddings=4,
    )
    with torch.no_grad():
        prior.clip_std.fill_(1.0)
    network = sd_unet(
        **_SIMPLE_UNET,
        out_channels=8,
        addition_embed_type="image",
        encoder_hid_dim_type="image_proj",
    )
    return diffusers.KandinskyV22CombinedPipeline(
        unet=network,
        scheduler=diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, variance_type="learned_range"
        ),
        movq=_movq(),
        prior_prior=randomise(prior),
        prior_image_encoder=clip_vision(),
        prior_text_encoder=clip_encoder(projected=True),
        prior_tokenizer=clip_tokenizer(),
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        prior_image_processor=transformers.CLIPImageProcessor(
            crop_size=32, size={"shortest_edge": 32}
        ),
    )


@_architecture("deepfloyd-if")
def _deepfloyd_if(_: Path) -> Any:
    network = sd_unet(
        **_SIMPLE_UNET,
        in_channels=3,
        out_channels=6,
        only_cross_attention=(True, False),
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        time_embedding_type="positional",
        act_fn="gelu",
        sample_size=32,
    )
    return diffusers.IFPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        unet=network,
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            variance_type="learned_range",
            thresholding=True,
            dynamic_thresholding_ratio=0.95,
            sample_max_value=1.5,
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
