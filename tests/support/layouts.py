"""Headers of the files that people share: the names and shapes that their real tensors have.

A row of text is a tensor: its name and its sides. Of every layer of a kind one or two stand for
all. Sources: ``diffusers.loaders.single_file_utils`` and ``lora_conversion_utils``, ComfyUI's
``model_detection``, the trainers' own code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gmi_registry.weights import Header, Tensor

__all__ = ["LAYOUTS", "Layout", "header", "lora", "prefixed", "tensors"]


@dataclass(frozen=True)
class Layout:
    """``expected`` are fields of WeightsFile; ``title`` is in its title."""

    rows: str
    kind: str
    title: str
    expected: dict[str, Any] = field(default_factory=dict)
    dtype: str = "F16"
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def header(self) -> Header:
        """The header of such a file."""
        return header(self.rows, self.dtype, self.metadata)


def tensors(rows: str, dtype: str = "F16") -> dict[str, Tensor]:
    """Tensors by name; a row may end with its own dtype."""
    found = {}
    for row in filter(None, (line.strip() for line in rows.splitlines())):
        name, *sides = row.split(" ")
        own = sides.pop() if sides and not sides[-1].isdigit() else dtype
        found[name] = Tensor(own, tuple(map(int, sides)))
    return found


def header(rows: str, dtype: str = "F16", metadata: dict[str, str] | None = None) -> Header:
    """The header of a safetensors file."""
    return Header("safetensors", tensors(rows, dtype), metadata or {})


def prefixed(prefix: str, rows: str) -> str:
    """The same tensors below a prefix."""
    return "\n".join(prefix + row.strip() for row in rows.splitlines() if row.strip())


def lora(
    rows: str, down: str = ".lora_A.weight", up: str = ".lora_B.weight", extra: str = ""
) -> str:
    """Two factors of rank 16 for each layer, of which a row says what it gives and takes."""
    made = []
    for row in filter(None, (line.strip() for line in rows.splitlines())):
        name, outputs, inputs = row.split(" ")
        made += [f"{name}{down} 16 {inputs}", f"{name}{up} {outputs} 16"]
        made += [f"{name}{extra}"] if extra else []
    return "\n".join(made)


def kohya(rows: str) -> str:
    return lora(rows, ".lora_down.weight", ".lora_up.weight", ".alpha")


# ---- networks and whole models


def ldm_unet(context: int, channels: int = 4, *, convolution: bool = False, sizes: int = 0) -> str:
    """The UNet of Stable Diffusion and SDXL under its first names."""
    projection = "320 320 1 1" if convolution else "320 320"
    labels = f"label_emb.0.0.weight 1280 {sizes}" if sizes else ""
    return f"""
        input_blocks.0.0.weight 320 {channels} 3 3
        input_blocks.1.0.in_layers.2.weight 320 320 3 3
        input_blocks.1.1.proj_in.weight {projection}
        input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight 320 320
        input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight 320 {context}
        middle_block.0.in_layers.2.weight 1280 1280 3 3
        output_blocks.0.0.skip_connection.weight 1280 2560 1 1
        out.2.weight 4 320 3 3
        time_embed.0.weight 1280 320
        {labels}
    """


VAE = """
    encoder.conv_in.weight 128 3 3 3
    encoder.down.0.block.0.conv1.weight 128 128 3 3
    encoder.mid.attn_1.q.weight 512 512 1 1
    decoder.conv_in.weight 512 4 3 3
    decoder.up.0.block.0.conv1.weight 128 128 3 3
    decoder.mid.attn_1.q.weight 512 512 1 1
    quant_conv.weight 8 8 1 1
    post_quant_conv.weight 4 4 1 1
"""
CLIP = """
    text_model.embeddings.token_embedding.weight 49408 768
    text_model.embeddings.position_embedding.weight 77 768
    text_model.encoder.layers.0.self_attn.q_proj.weight 768 768
    text_model.encoder.layers.0.mlp.fc1.weight 3072 768
"""
OPEN_CLIP = """
    token_embedding.weight 49408 1024
    positional_embedding 77 1024
    transformer.resblocks.0.attn.in_proj_weight 3072 1024
    transformer.resblocks.0.mlp.c_fc.weight 4096 1024
    text_projection 1024 1024
"""
T5 = """
    shared.weight 32128 4096
    encoder.block.0.layer.0.SelfAttention.q.weight 4096 4096
    encoder.block.0.layer.1.DenseReluDense.wi_0.weight 10240 4096
    encoder.final_layer_norm.weight 4096
"""
LDM, LDM_VAE = "model.diffusion_model.", prefixed("first_stage_model.", VAE)
SD1_TEXT = prefixed("cond_stage_model.transformer.", CLIP)
SD2_TEXT = prefixed("cond_stage_model.model.", OPEN_CLIP)
XL_TEXT = "\n".join(
    (
        prefixed("conditioner.embedders.0.transformer.", CLIP),
        prefixed("conditioner.embedders.1.model.", OPEN_CLIP),
    )
)


def whole(network: str, *others: str) -> str:
    return "\n".join((prefixed(LDM, network), *others))


SD1 = whole(ldm_unet(768, convolution=True), LDM_VAE, SD1_TEXT)
XL = whole(ldm_unet(2048, sizes=2816), LDM_VAE, XL_TEXT)
FLUX = """
    img_in.weight 3072 64
    txt_in.weight 3072 4096
    time_in.in_layer.weight 3072 256
    vector_in.in_layer.weight 3072 768
    double_blocks.0.img_attn.norm.key_norm.scale 128
    double_blocks.0.img_attn.qkv.weight 9216 3072
    double_blocks.0.img_mlp.0.weight 12288 3072
    double_blocks.18.txt_attn.qkv.weight 9216 3072
    single_blocks.0.linear1.weight 21504 3072
    single_blocks.37.modulation.lin.weight 9216 3072
    final_layer.linear.weight 64 3072
"""
FLUX_DEV = FLUX + "guidance_in.in_layer.weight 3072 256"
FLUX_DIFFUSERS = """
    x_embedder.weight 3072 64
    context_embedder.weight 3072 4096
    time_text_embed.timestep_embedder.linear_1.weight 3072 256
    time_text_embed.guidance_embedder.linear_1.weight 3072 256
    transformer_blocks.0.attn.add_k_proj.weight 3072 3072
    transformer_blocks.0.attn.to_q.weight 3072 3072
    single_transformer_blocks.0.attn.to_q.weight 3072 3072
    single_transformer_blocks.0.proj_mlp.weight 12288 3072
    proj_out.weight 64 3072
"""


def joint(blocks: int, extra: str = "") -> str:
    """The network of Stable Diffusion 3."""
    return f"""
        pos_embed 1 36864 1536
        x_embedder.proj.weight 1536 16 2 2
        context_embedder.weight 1536 4096
        joint_blocks.0.context_block.adaLN_modulation.1.bias 9216
        joint_blocks.0.x_block.attn.qkv.weight 4608 1536
        joint_blocks.{blocks - 1}.x_block.mlp.fc1.weight 6144 1536
        {extra}
    """


UNET_DIFFUSERS = """
    conv_in.weight 320 4 3 3
    time_embedding.linear_1.weight 1280 320
    down_blocks.1.attentions.0.proj_in.weight 640 640
    down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight 640 2048
    mid_block.attentions.0.transformer_blocks.9.attn2.to_k.weight 1280 2048
    up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight 1280 2048
    add_embedding.linear_1.weight 1280 2816
    conv_out.weight 4 320 3 3
"""
Z_IMAGE = """
    x_embedder.weight 3840 64
    x_pad_token 1 3840
    cap_pad_token 1 3840
    cap_embedder.0.weight 2560
    cap_embedder.1.weight 3840 2560
    t_embedder.mlp.0.weight 1024 256
    layers.0.adaLN_modulation.0.weight 15360 256
    layers.0.attention.qkv.weight 11520 3840
    layers.0.feed_forward.w1.weight 10240 3840
    noise_refiner.0.attention.qkv.weight 11520 3840
"""
QWEN = """
    img_in.weight 3072 64
    txt_in.weight 3072 3584
    txt_norm.weight 3584
    transformer_blocks.0.img_mod.1.weight 18432 3072
    transformer_blocks.0.img_mlp.net.0.proj.weight 12288 3072
    transformer_blocks.0.txt_mlp.net.0.proj.weight 12288 3072
    transformer_blocks.59.attn.add_k_proj.weight 3072 3072
    proj_out.weight 64 3072
"""
WAN = """
    patch_embedding.weight 5120 16 1 2 2
    head.modulation 1 2 5120
    blocks.0.self_attn.q.weight 5120 5120
    blocks.0.cross_attn.k.weight 5120 5120
    blocks.0.ffn.0.weight 13824 5120
"""

WHOLE = {
    "SD 1.5": Layout(SD1, "checkpoint", "a checkpoint of Stable Diffusion 1.x", {
        "architecture": "sd1", "parts": ("network", "vae", "text-encoder"), "input_channels": 4,
        "text_encoders": ("clip_l",), "needs_image": False}),
    "SD 1.5 with EMA weights": Layout(
        SD1 + "\nmodel_ema.diffusion_modelinput_blocks00weight 320 4 3 3\nmodel_ema.decay",
        "checkpoint", "a checkpoint", {"parts": ("network", "ema", "vae", "text-encoder")}),
    "SD 1.5 without a VAE": Layout(
        whole(ldm_unet(768, convolution=True), SD1_TEXT), "checkpoint", "a checkpoint",
        {"parts": ("network", "text-encoder")}),
    "SD 1.5 for inpainting": Layout(
        whole(ldm_unet(768, 9, convolution=True), LDM_VAE, SD1_TEXT), "checkpoint", "a checkpoint",
        {"needs_image": True, "is_described": False}),
    "InstructPix2Pix": Layout(
        whole(ldm_unet(768, 8, convolution=True), LDM_VAE, SD1_TEXT), "checkpoint", "a checkpoint",
        {"needs_image": True, "is_described": False}),
    "SD 2 for depth": Layout(
        whole(ldm_unet(1024, 5), LDM_VAE, SD2_TEXT), "checkpoint", "Stable Diffusion 2",
        {"architecture": "sd2", "is_described": False}),
    "SD 2.1": Layout(
        whole(ldm_unet(1024), LDM_VAE, SD2_TEXT), "checkpoint", "Stable Diffusion 2.x",
        {"architecture": "sd2", "text_encoders": ("clip_h",)}),
    "SDXL": Layout(XL, "checkpoint", "a checkpoint of SDXL", {
        "architecture": "sdxl", "text_encoders": ("clip_g", "clip_l"), "is_described": True}),
    "the refiner": Layout(
        whole(ldm_unet(1280, sizes=2560), LDM_VAE,
              prefixed("conditioner.embedders.0.model.", OPEN_CLIP)),
        "checkpoint", "the SDXL refiner", {
            "architecture": "sdxl-refiner", "text_encoders": ("clip_g",), "is_described": False}),
    "a tiny SDXL": Layout(
        whole(ldm_unet(96, sizes=80), LDM_VAE, XL_TEXT), "checkpoint", "SDXL",
        {"architecture": "sdxl"}),
    "NoobAI, v-prediction": Layout(
        XL + "\nv_pred 0 F32\nztsnr 0 F32", "checkpoint", "SDXL",
        {"prediction_type": "v_prediction", "zero_terminal_snr": True}),
    "SD3 with two text encoders": Layout(
        whole(joint(24), LDM_VAE, prefixed("text_encoders.clip_l.transformer.", CLIP),
              prefixed("text_encoders.clip_g.transformer.", CLIP)),
        "checkpoint", "Stable Diffusion 3",
        {"architecture": "sd3", "variant": "3-medium", "text_encoders": ("clip_g", "clip_l")}),
    "SD3 with all text encoders": Layout(
        whole(joint(24), LDM_VAE, prefixed("text_encoders.clip_l.transformer.", CLIP),
              prefixed("text_encoders.clip_g.transformer.", CLIP),
              prefixed("text_encoders.t5xxl.transformer.", T5)),
        "checkpoint", "Stable Diffusion 3", {"text_encoders": ("clip_g", "clip_l", "t5xxl")}),
    "SD3 without text encoders": Layout(
        whole(joint(24), LDM_VAE), "network", "without text encoders",
        {"architecture": "sd3", "parts": ("network", "vae")}),
    "SD3.5 medium alone": Layout(
        whole(joint(24, "joint_blocks.0.x_block.attn2.qkv.weight 4608 1536")), "network",
        "without text encoders and VAE", {"variant": "3.5-medium"}),
    "SD3.5 large alone": Layout(joint(38), "network", "Stable Diffusion 3", {"variant": "3.5-large"}),
    "FLUX.1 dev with everything": Layout(
        whole(FLUX_DEV, prefixed("vae.", VAE), prefixed("text_encoders.clip_l.transformer.", CLIP),
              prefixed("text_encoders.t5xxl.transformer.", T5)),
        "checkpoint", "a checkpoint of FLUX.1", {
            "architecture": "flux1", "variant": "dev", "parts": ("network", "vae", "text-encoder"),
            "text_encoders": ("clip_l", "t5xxl")}),
}  # fmt: skip
ALONE = {
    "UNet of SD 1.5, first names": Layout(
        ldm_unet(768, convolution=True), "network", "a diffusion network of Stable Diffusion 1.x",
        {"architecture": "sd1", "diffusers_names": False, "is_described": True}),
    "UNet of SDXL, prefix, with a VAE": Layout(
        whole(ldm_unet(2048, sizes=2816), LDM_VAE), "network", "without text encoders",
        {"architecture": "sdxl", "parts": ("network", "vae")}),
    "UNet of SDXL, diffusers' names": Layout(
        UNET_DIFFUSERS, "network", "SDXL", {
            "architecture": "sdxl", "diffusers_names": True, "input_channels": 4}),
    "UNet of Kolors": Layout(
        UNET_DIFFUSERS + "encoder_hid_proj.weight 2048 4096", "network", "Kolors",
        {"architecture": "kolors"}),
    "UNet without prompts": Layout("""
        conv_in.weight 128 3 3 3
        time_embedding.linear_1.weight 512 128
        down_blocks.0.resnets.0.conv1.weight 128 128 3 3
        up_blocks.0.resnets.0.conv1.weight 128 128 3 3
        conv_out.weight 3 128 3 3""", "network", "takes no prompts", {"is_described": False}),
    "FLUX.1 dev": Layout(FLUX_DEV, "network", "FLUX.1", {
        "architecture": "flux1", "variant": "dev", "input_channels": 64, "output_channels": 64}),
    "FLUX.1 schnell": Layout(FLUX, "network", "FLUX.1", {"variant": "schnell"}),
    "FLUX.1 Fill": Layout(
        FLUX_DEV.replace("img_in.weight 3072 64", "img_in.weight 3072 384"), "network", "FLUX.1",
        {"needs_image": True, "is_described": False}),
    "FLUX.1, prefix of ComfyUI": Layout(whole(FLUX_DEV), "network", "FLUX.1", {"architecture": "flux1"}),
    "FLUX.1, diffusers' names": Layout(FLUX_DIFFUSERS, "network", "FLUX.1", {
        "architecture": "flux1", "variant": "dev", "diffusers_names": True}),
    "Chroma": Layout(
        FLUX + "distilled_guidance_layer.in_proj.bias 5120", "network", "Chroma",
        {"architecture": "chroma"}),
    "FLUX.2": Layout("""
        img_in.weight 6144 128
        double_stream_modulation_img.lin.weight 36864 6144
        single_stream_modulation.lin.weight 18432 6144
        double_blocks.0.img_attn.qkv.weight 18432 6144
        single_blocks.0.linear1.weight 55296 6144
        final_layer.linear.weight 128 6144""", "network", "FLUX.2", {"architecture": "flux2"}),
    "Qwen-Image": Layout(QWEN, "network", "Qwen-Image", {"architecture": "qwen-image"}),
    "Qwen-Image, prefix": Layout(whole(QWEN), "network", "Qwen-Image", {"architecture": "qwen-image"}),
    "Z-Image": Layout(Z_IMAGE, "network", "Z-Image", {"architecture": "z-image"}),
    "Z-Image, diffusers' names": Layout("""
        all_x_embedder.2-1.weight 3840 64
        cap_pad_token 1 3840
        layers.0.attention.to_q.weight 3840 3840
        layers.0.adaLN_modulation.0.weight 15360 256""", "network", "Z-Image",
        {"architecture": "z-image"}),
    "Lumina 2": Layout(
        Z_IMAGE.replace("adaLN_modulation.0", "adaLN_modulation.1").replace("x_pad_token 1 3840", "")
        .replace("cap_pad_token 1 3840", "").replace("cap_\n", "\n"),
        "network", "Lumina 2", {"architecture": "lumina2"}),
    "AuraFlow": Layout("""
        cond_seq_linear.weight 3072 2048
        register_tokens 1 8 3072
        t_embedder.mlp.0.weight 3072 256
        double_layers.0.attn.w1q.weight 3072 3072
        double_layers.0.attn.w2q.weight 3072 3072
        single_layers.0.attn.w1q.weight 3072 3072""", "network", "AuraFlow",
        {"architecture": "auraflow"}),
    "HiDream": Layout("""
        caption_projection.0.linear.weight 2560 4096
        x_embedder.proj.weight 2560 64
        double_stream_blocks.0.block.adaLN_modulation.1.bias 30720
        double_stream_blocks.0.block.attn1.to_q.weight 2560 2560
        single_stream_blocks.0.block.attn1.to_q.weight 2560 2560""", "network", "HiDream",
        {"architecture": "hidream"}),
    "PixArt-Sigma": Layout("""
        x_embedder.proj.weight 1152 4 2 2
        y_embedder.y_embedding 300 4096
        t_block.1.weight 6912 1152
        blocks.0.cross_attn.kv_linear.weight 2304 1152
        blocks.0.mlp.fc1.weight 4608 1152""", "network", "PixArt",
        {"architecture": "pixart", "variant": "sigma"}),
    "Sana": Layout("""
        x_embedder.proj.weight 2240 32 1 1
        attention_y_norm.weight 2240
        blocks.0.cross_attn.kv_linear.weight 4480 2240
        blocks.0.mlp.inverted_conv.conv.weight 11200 2240 1 1""", "network", "Sana",
        {"architecture": "sana"}),
    "HunyuanDiT": Layout("""
        text_embedding_padding 333 1024
        mlp_t5.0.weight 8192 2048
        blocks.0.attn1.Wqkv.weight 4224 1408""", "network", "HunyuanDiT",
        {"architecture": "hunyuandit"}),
    "Stable Cascade, stage C": Layout("""
        clip_txt_mapper.weight 8192 1280
        down_blocks.0.0.channelwise.0.weight 8192 2048
        down_blocks.0.0.depthwise.weight 2048 1 3 3""", "network", "Stable Cascade",
        {"architecture": "stable-cascade"}),
    "Anima": Layout("""
        net.llm_adapter.blocks.0.self_attn.q_proj.weight 1024 1024
        net.x_embedder.proj.1.weight 2048 68
        net.blocks.0.self_attn.q_proj.weight 2048 2048""", "network", "Anima",
        {"architecture": "anima"}),
    "Wan": Layout(WAN, "network", "Wan", {"architecture": "wan", "is_described": False}),
    "LTX-Video with its VAE": Layout(
        whole("""
        patchify_proj.weight 2048 128
        transformer_blocks.27.scale_shift_table 6 2048
        transformer_blocks.0.attn1.to_q.weight 2048 2048""",
              "vae.decoder.up_blocks.0.res_blocks.0.conv1.conv.weight 512 512 3 3 3"),
        "network", "LTX-Video", {"architecture": "ltx", "is_described": False}),
    "HunyuanVideo": Layout("""
        img_in.proj.weight 3072 16 1 2 2
        txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias 6144
        double_blocks.0.img_attn_qkv.weight 9216 3072
        single_blocks.0.linear1.weight 21504 3072""", "network", "HunyuanVideo",
        {"architecture": "hunyuan-video", "is_described": False}),
    "HunyuanImage": Layout("""
        img_in.proj.weight 3584 64 1 1
        txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias 7168
        double_blocks.0.img_attn_qkv.weight 10752 3584
        single_blocks.0.linear1.weight 25088 3584""", "network", "HunyuanImage",
        {"architecture": "hunyuan-image", "is_described": True}),
    "Stable Video Diffusion": Layout(
        whole(ldm_unet(1024, 8) + "input_blocks.1.1.time_stack.0.attn1.to_q.weight 320 320", LDM_VAE,
              prefixed("conditioner.embedders.0.open_clip.model.", OPEN_CLIP)),
        "checkpoint", "Stable Video Diffusion", {"architecture": "svd", "is_described": False}),
    "a newer network of diffusers": Layout("""
        transformer_blocks.0.wonder_attn.to_q.weight 512 512
        transformer_blocks.0.wonder_attn.to_k.weight 512 512""", "network", "not known here",
        {"architecture": None, "is_described": True}),
}  # fmt: skip

# ---- quantised

BNB = """
    double_blocks.0.img_attn.qkv.weight 14155776 1 U8
    double_blocks.0.img_attn.qkv.weight.absmax 442368 U8
    double_blocks.0.img_attn.qkv.weight.quant_map 16 F32
    double_blocks.0.img_attn.qkv.weight.quant_state.bitsandbytes__nf4 92 U8
    double_blocks.0.img_attn.norm.key_norm.scale 128
    single_blocks.0.linear1.weight 33030144 1 U8
    img_in.weight 3072 64
    final_layer.linear.weight 64 3072
"""
NUNCHAKU = """
    x_embedder.weight 3072 64
    transformer_blocks.0.qkv_proj.qweight 9216 1536 I8
    transformer_blocks.0.qkv_proj.wscales 48 9216
    transformer_blocks.0.qkv_proj.smooth_factor 3072
    transformer_blocks.0.qkv_proj.proj_down 3072 32
    transformer_blocks.0.qkv_proj.proj_up 9216 32
    transformer_blocks.0.qkv_proj.lora_down 3072 32
    transformer_blocks.0.qkv_proj.lora_up 9216 32
    single_transformer_blocks.0.qkv_proj.qweight 9216 1536 I8
    single_transformer_blocks.0.qkv_proj.wscales 48 9216
    proj_out.weight 64 3072
"""
F8 = "F8_E4M3"
QUANTISED = {
    "plain": Layout(FLUX, "network", "FLUX.1", {"quantisation": None, "dtype": "BF16"}, "BF16"),
    "fp8 without scales": Layout(FLUX, "network", "FLUX.1", {"quantisation": "fp8", "dtype": F8}, F8),
    "fp8 with ComfyUI's scales": Layout(
        FLUX + "double_blocks.0.img_attn.qkv.scale_weight F32\nscaled_fp8 2", "network", "FLUX.1",
        {"quantisation": "fp8 with scales"}, F8),
    "fp8 with newer scales": Layout(
        FLUX + "double_blocks.0.img_attn.qkv.weight_scale F32", "network", "FLUX.1",
        {"quantisation": "fp8 with scales"}, F8),
    "ComfyUI's mixed precision": Layout(
        FLUX + "double_blocks.0.img_attn.qkv.comfy_quant 30 U8", "network", "FLUX.1",
        {"quantisation": "ComfyUI's mixed precision (fp8 with scales)"}, F8),
    "bitsandbytes": Layout(BNB, "network", "FLUX.1", {"quantisation": "bitsandbytes nf4"}),
    "bitsandbytes in 8 bits": Layout(
        FLUX + "double_blocks.0.img_attn.qkv.SCB 9216 F32", "network", "FLUX.1",
        {"quantisation": "bitsandbytes"}, "I8"),
    "nunchaku": Layout(NUNCHAKU, "network", "FLUX.1", {"quantisation": "nunchaku svdquant"}),
    "GPTQ": Layout("""
        model.layers.0.self_attn.q_proj.qweight 512 4096 I32
        model.layers.0.self_attn.q_proj.qzeros 32 512 I32
        model.layers.0.self_attn.q_proj.g_idx 4096 I32
        model.layers.0.mlp.up_proj.qweight 512 4096 I32
        model.embed_tokens.weight 32000 4096""", "language-model", "a language model",
        {"quantisation": "GPTQ"}),
}  # fmt: skip

# ---- adapters

SD1_LAYERS = """
    down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k 320 768
    up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q 1280 1280
"""
XL_LAYERS = """
    down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k 640 2048
    mid_block.attentions.0.transformer_blocks.9.attn1.to_q 1280 1280
"""
FLUX_LAYERS = """
    transformer_blocks.0.attn.to_q 3072 3072
    transformer_blocks.18.ff_context.net.2 3072 12288
    single_transformer_blocks.37.proj_mlp 12288 3072
"""
FLUX_FIRST = """
    double_blocks.0.img_attn.qkv 9216 3072
    double_blocks.18.txt_mlp.0 12288 3072
    single_blocks.37.linear1 21504 3072
"""
QWEN_LAYERS = "\n".join(f"transformer_blocks.{n}.attn.to_q 3072 3072" for n in (0, 59))
CLIP_LAYER = "text_model.encoder.layers.0.self_attn.q_proj"


def spelt(prefix: str, rows: str) -> str:
    """Layers as kohya's scripts spell them."""
    return "\n".join(
        prefix + row.strip().split(" ")[0].replace(".", "_") + " " + row.strip().split(" ", 1)[1]
        for row in rows.splitlines()
        if row.strip()
    )


def processors(rows: str) -> str:
    """Layers as diffusers had them before version 0.22."""
    made = []
    for row in filter(None, (line.strip() for line in rows.splitlines())):
        name, outputs, inputs = row.split(" ")
        layer, projection = name.rsplit(".", 1)
        made.append(f"{layer}.processor.{projection}_lora {outputs} {inputs}")
    return lora("\n".join(made), ".down.weight", ".up.weight")


ADAPTERS = {
    "PEFT, SD 1.5": Layout(lora(prefixed("unet.", SD1_LAYERS)), "lora", "a LoRA for Stable Diffusion 1", {
        "architecture": "sd1", "algorithms": ("lora",), "layers": 2, "is_described": True}),
    "PEFT, SDXL, two text encoders": Layout(
        lora(prefixed("unet.", XL_LAYERS) + f"""
            text_encoder.{CLIP_LAYER} 768 768
            text_encoder_2.{CLIP_LAYER} 1280 1280"""),
        "lora", "a LoRA for SDXL", {"architecture": "sdxl", "text_encoder_layers": True, "layers": 4}),
    "PEFT with the name of its adapter": Layout(
        lora(prefixed("base_model.model.", XL_LAYERS), ".lora_A.default.weight", ".lora_B.default.weight"),
        "lora", "a LoRA for SDXL", {"architecture": "sdxl"}),
    "diffusers 0.22": Layout(
        lora(prefixed("unet.", XL_LAYERS), ".lora.down.weight", ".lora.up.weight"), "lora",
        "a LoRA for SDXL", {"architecture": "sdxl"}),
    "diffusers before 0.22": Layout(
        processors(SD1_LAYERS), "lora", "a LoRA for Stable Diffusion 1", {"architecture": "sd1"}),
    "lora_linear_layer of a text encoder": Layout(
        lora(f"text_encoder.{CLIP_LAYER} 768 768", ".lora_linear_layer.down.weight",
             ".lora_linear_layer.up.weight"),
        "lora", "a LoRA", {"text_encoder_layers": True, "architecture": None}),
    "kohya, SD 1.5": Layout(
        kohya(spelt("lora_unet_", SD1_LAYERS) + """
            lora_te_text_model_encoder_layers_0_self_attn_q_proj 768 768"""),
        "lora", "a LoRA for Stable Diffusion 1", {"architecture": "sd1", "text_encoder_layers": True}),
    "kohya, SD 2": Layout(
        kohya(spelt("lora_unet_", SD1_LAYERS.replace("768", "1024"))), "lora",
        "a LoRA for Stable Diffusion 2", {"architecture": "sd2"}),
    "kohya, SDXL, with its first names": Layout(
        kohya("""
            lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q 640 640
            lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k 1280 2048
            lora_te1_text_model_encoder_layers_0_self_attn_q_proj 768 768
            lora_te2_text_model_encoder_layers_0_self_attn_q_proj 1280 1280"""),
        "lora", "a LoRA for SDXL", {"architecture": "sdxl"}),
    "the text encoders of SDXL alone": Layout(
        kohya("""
            lora_te1_text_model_encoder_layers_0_self_attn_q_proj 768 768
            lora_te2_text_model_encoder_layers_0_self_attn_q_proj 1280 1280"""),
        "lora", "a LoRA for SDXL", {"architecture": "sdxl", "layers": 2}),
    "LoCon": Layout(
        kohya(spelt("lora_unet_", XL_LAYERS)) + """
            lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight 16 320 3 3
            lora_unet_down_blocks_0_resnets_0_conv1.lora_mid.weight 16 16 3 3
            lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight 320 16 1 1""",
        "lora", "a LoRA for SDXL", {"layers": 3}),
    "DoRA": Layout(
        kohya(spelt("lora_unet_", XL_LAYERS))
        + "\nlora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_q.dora_scale 1280 1",
        "lora", "a DoRA for SDXL", {"algorithms": ("lora", "dora")}),
    "Kohya, FLUX.1": Layout(
        kohya(spelt("lora_unet_", FLUX_FIRST) + """
            lora_te1_text_model_encoder_layers_0_self_attn_q_proj 768 768
            lora_te3_encoder_block_0_layer_0_SelfAttention_k 4096 4096"""),
        "lora", "a LoRA for FLUX.1", {"architecture": "flux1", "text_encoder_layers": True}),
    "OneTrainer, FLUX.1": Layout(
        kohya(spelt("lora_transformer_", FLUX_LAYERS)), "lora", "FLUX.1", {"architecture": "flux1"}),
    "AI-toolkit, FLUX.1": Layout(
        lora(prefixed("transformer.", FLUX_LAYERS)), "lora", "FLUX.1", {"architecture": "flux1"}),
    "the double blocks of FLUX.1 alone": Layout(
        lora("transformer.transformer_blocks.18.attn.to_q 3072 3072"), "lora", "FLUX.1",
        {"architecture": "flux1"}),
    "BFL, FLUX.1": Layout(
        lora(FLUX_FIRST) + "\ndouble_blocks.0.img_attn.norm.query_norm.scale 128", "lora", "FLUX.1",
        {"architecture": "flux1"}),
    "control LoRA of FLUX.1": Layout(
        lora(FLUX_FIRST + "img_in 3072 128"), "lora", "FLUX.1",
        {"needs_image": True, "is_described": False}),
    "every layer of FLUX.1": Layout(
        lora(FLUX_FIRST + "img_in 3072 64"), "lora", "FLUX.1", {"is_described": True}),
    "LoRA of an inpainting SDXL": Layout(
        kohya(spelt("lora_unet_", XL_LAYERS)) + """
            lora_unet_conv_in.lora_down.weight 16 9 3 3
            lora_unet_conv_in.lora_up.weight 320 16 1 1""",
        "lora", "SDXL", {"input_channels": 9, "is_described": False}),
    "every layer of FLUX.2": Layout(
        lora(prefixed("diffusion_model.", FLUX_FIRST.replace("3072", "6144") + "img_in 6144 128")),
        "lora", "FLUX.2", {"is_described": True}),
    "XLabs, FLUX.1": Layout(
        lora("""
            double_blocks.0.processor.proj_lora1 3072 3072
            double_blocks.0.processor.qkv_lora2 9216 3072""", ".down.weight", ".up.weight"),
        "lora", "FLUX.1", {"architecture": "flux1", "layers": 2}),
    "FLUX.2": Layout(
        lora(prefixed("diffusion_model.", FLUX_FIRST.replace("3072", "6144"))), "lora", "FLUX.2",
        {"architecture": "flux2"}),
    "FLUX.2 klein, whose width is FLUX.1's": Layout(
        lora("""
            diffusion_model.double_blocks.0.img_attn.qkv 9216 3072
            diffusion_model.single_blocks.0.linear1 27648 3072"""),
        "lora", "FLUX.2", {"architecture": "flux2"}),
    "FLUX.2 klein, its feed-forward layers": Layout(
        kohya("lora_unet_double_blocks_0_img_mlp_0 18432 3072"), "lora", "FLUX.2",
        {"architecture": "flux2"}),
    "Chroma": Layout(
        lora(prefixed("diffusion_model.", FLUX_FIRST + "distilled_guidance_layer.in_proj 5120 64")),
        "lora", "Chroma", {"architecture": "chroma"}),
    "SD3": Layout(
        lora("transformer.transformer_blocks.0.attn.to_q 1536 1536"), "lora",
        "Stable Diffusion 3", {"architecture": "sd3"}),
    "kohya, SD3": Layout(
        kohya("lora_unet_joint_blocks_0_x_block_attn_qkv 4608 1536"), "lora", "Stable Diffusion 3",
        {"architecture": "sd3"}),
    "Qwen-Image": Layout(
        lora(prefixed("transformer.", QWEN_LAYERS)), "lora", "Qwen-Image",
        {"architecture": "qwen-image"}),
    "Z-Image": Layout(
        lora("diffusion_model.layers.0.attention.to_q 3840 3840"), "lora", "Z-Image",
        {"architecture": "z-image"}),
    "Z-Image, feed-forward alone": Layout(
        kohya("lora_unet_layers_0_feed_forward_w1 10240 3840"), "lora", "Z-Image",
        {"architecture": "z-image"}),
    "Lumina 2": Layout(
        lora("diffusion_model.layers.0.attention.qkv 3840 2304"), "lora", "Lumina 2",
        {"architecture": "lumina2"}),
    "HiDream": Layout(
        lora("diffusion_model.double_stream_blocks.0.block.attn1.to_q 2560 2560"), "lora", "HiDream",
        {"architecture": "hidream"}),
    "Wan": Layout(
        lora("diffusion_model.blocks.0.self_attn.q 5120 5120")
        + "\ndiffusion_model.blocks.0.self_attn.q.diff_b 5120",
        "lora", "a LoRA for Wan", {"architecture": "wan", "is_described": False}),
    "HunyuanVideo": Layout(
        kohya("lora_unet_double_blocks_0_img_mlp_fc1 12288 3072"), "lora", "HunyuanVideo",
        {"architecture": "hunyuan-video", "is_described": False}),
    "PixArt": Layout(
        lora("""
            transformer.transformer_blocks.0.attn1.to_q 1152 1152
            transformer.transformer_blocks.0.attn2.to_k 1152 1152"""),
        "lora", "PixArt", {"architecture": "pixart"}),
    "pivotal tuning inside a LoRA": Layout(
        kohya(spelt("lora_unet_", XL_LAYERS)) + """
            bundle_emb.mystyle.string_to_param.* 4 768
            bundle_emb.mystyle.clip_g 4 1280""",
        "lora", "a LoRA for SDXL", {"tokens": ("mystyle",)}),
    "LoHa": Layout("""
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.hada_w1_a 1280 8
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.hada_w1_b 8 768
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.hada_w2_a 1280 8
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.hada_w2_b 8 768
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.alpha""",
        "lycoris", "a LoHa adapter (LyCORIS) for Stable Diffusion 1", {"architecture": "sd1"}),
    "LoKr, factors": Layout("""
        lycoris_transformer_blocks_0_attn_to_q.lokr_w1 4 4
        lycoris_transformer_blocks_0_attn_to_q.lokr_w2_a 768 8
        lycoris_transformer_blocks_0_attn_to_q.lokr_w2_b 8 768
        lycoris_single_transformer_blocks_0_attn_to_q.lokr_w1 4 4
        lycoris_single_transformer_blocks_0_attn_to_q.lokr_w2 768 768""",
        "lycoris", "a LoKr adapter (LyCORIS) for FLUX.1", {"architecture": "flux1"}),
    "LoKr of SDXL": Layout("""
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lokr_w1 4 8
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lokr_w2 320 256""",
        "lycoris", "LoKr", {"architecture": "sdxl"}),
    "GLoRA": Layout("""
        lora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_k.a1.weight 8 1280
        lora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_k.a2.weight 1280 8
        lora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_k.b1.weight 8 1280
        lora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_k.b2.weight 1280 8""",
        "lycoris", "a GLoRA adapter", {"architecture": "sdxl"}),
    "OFT": Layout("lora_unet_mid_block_attentions_0_proj_in.oft_blocks 4 320 320", "lycoris", "an OFT"),
    "OFT of diag": Layout("lora_unet_mid_block_attentions_0_proj_in.oft_diag 4 320 320", "lycoris", "an OFT"),
    "BOFT": Layout("base_model.model.mid_block.attentions.0.proj_in.boft_R 1 4 8 8", "lycoris", "a BOFT"),
    "IA3": Layout("""
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.weight 1280 1
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.on_input""",
        "lycoris", "an IA3"),
    "full differences": Layout("""
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.diff 1280 2048
        lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.diff_b 1280""",
        "lycoris", "a full differences adapter", {"architecture": "sdxl"}),
    "norm layers beside a LoRA": Layout(
        kohya(spelt("lora_unet_", SD1_LAYERS)) + """
            lora_unet_down_blocks_0_resnets_0_norm1.w_norm 320
            lora_unet_down_blocks_0_resnets_0_norm1.b_norm 320""",
        "lora", "a LoRA for Stable Diffusion 1", {"algorithms": ("lora", "norm"), "layers": 3}),
    "a LoRA for a language model": Layout(
        lora("base_model.model.model.layers.0.self_attn.q_proj 4096 4096"), "language-model",
        "a LoRA for a language model", {"is_described": False}),
}  # fmt: skip

# ---- textual inversions

WORDS = {
    "A1111": Layout("emb_params 8 768 F32", "textual-inversion", "Stable Diffusion 1", {
        "architecture": "sd1", "is_described": True}),
    "A1111, SD 2": Layout("emb_params 8 1024", "textual-inversion", "Stable Diffusion 2", {
        "architecture": "sd2"}),
    "string_to_param": Layout("string_to_param.* 4 768", "textual-inversion", "Stable Diffusion 1"),
    "SDXL": Layout("clip_l 8 768\nclip_g 8 1280", "textual-inversion", "SDXL", {"architecture": "sdxl"}),
    "diffusers": Layout("<cat-toy> 768", "textual-inversion", "a textual inversion", {
        "tokens": ("<cat-toy>",), "architecture": "sd1"}),
    "diffusers, several": Layout("<s0> 2 768\n<s1> 2 768", "textual-inversion", "", {
        "tokens": ("<s0>", "<s1>")}),
    "pivotal tuning, SDXL": Layout(
        "text_encoders_0 2 768\ntext_encoders_1 2 1280", "textual-inversion", "SDXL",
        {"architecture": "sdxl"}),
    "pivotal tuning, FLUX.1": Layout("clip_l 2 768\nt5 2 4096", "textual-inversion", "FLUX.1"),
}  # fmt: skip

# ---- parts, and files of other programs


def part(kind: str, title: str, rows: str, **expected: Any) -> Layout:
    return Layout(rows, kind, title, {"is_described": False, **expected})


PARTS = {
    "VAE": part("vae", "a VAE", VAE),
    "VAE below its prefix": part("vae", "a VAE", LDM_VAE),
    "VAE, diffusers' names": part("vae", "a VAE", """
        encoder.down_blocks.0.resnets.0.conv1.weight 128 128 3 3
        decoder.up_blocks.0.resnets.0.conv1.weight 512 512 3 3
        decoder.mid_block.attentions.0.to_q.weight 512 512"""),
    "VAE of Wan": part("vae", "a VAE", """
        encoder.downsamples.0.residual.0.gamma 96 1 1 1
        decoder.middle.0.residual.0.gamma 384 1 1 1"""),
    "VAE of Sana": part("vae", "a VAE", """
        encoder.stages.0.op_list.0.main.conv1.conv.weight 128 128 3 3
        decoder.stages.0.op_list.0.main.conv.conv.bias 128"""),
    "TAESD": part("vae", "a TAESD", """
        taesd_decoder.1.weight 64 4 3 3
        taesd_decoder.3.conv.0.weight 64 64 3 3"""),
    "TAESD, its decoder": part("vae", "a TAESD", """
        1.weight 64 4 3 3
        3.conv.0.weight 64 64 3 3
        3.conv.2.bias 64"""),
    "TAESD, diffusers' names": part("vae", "a TAESD", """
        encoder.layers.1.conv.0.weight 64 64 3 3
        decoder.layers.3.conv.0.weight 64 64 3 3"""),
    "ControlNet of SD 1.5": part("controlnet", "a ControlNet for Stable Diffusion 1", prefixed(
        "control_model.", ldm_unet(768) + "input_hint_block.0.weight 16 3 3 3"), architecture="sd1"),
    "ControlNet with its whole model": part("controlnet", "a ControlNet", SD1 + "\n" + prefixed(
        "control_model.", "input_hint_block.0.weight 16 3 3 3")),
    "ControlNet of SDXL": part("controlnet", "a ControlNet for SDXL", """
        controlnet_cond_embedding.conv_in.weight 16 3 3 3
        controlnet_down_blocks.0.weight 320 320 1 1
        down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight 640 2048""",
        architecture="sdxl"),
    "ControlNet union": part("controlnet", "a ControlNet union", """
        task_embedding 8 320
        control_add_embedding.linear_1.weight 1280 1536
        controlnet_down_blocks.0.weight 320 320 1 1"""),
    "ControlNet of FLUX.1": part("controlnet", "a ControlNet for FLUX.1", """
        controlnet_x_embedder.weight 3072 64
        controlnet_blocks.0.weight 3072 3072
        single_transformer_blocks.0.proj_mlp.weight 12288 3072"""),
    "ControlNet of Z-Image": part("controlnet", "a ControlNet for Z-Image", """
        control_all_x_embedder.2-1.weight 3840 132
        control_layers.0.before_proj.weight 3840 3840"""),
    "control-LoRA": part("controlnet", "a control-LoRA", """
        lora_controlnet 0
        input_blocks.1.1.transformer_blocks.0.attn1.to_q.up 320 128
        input_hint_block.0.weight 16 3 3 3"""),
    "ControlNet-LLLite": part("controlnet", "a ControlNet-LLLite", """
        lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.conditioning1.0.weight 32 3 4 4"""),
    "T2I-Adapter": part("controlnet", "a T2I-Adapter", """
        body.0.block1.weight 320 320 3 3
        body.0.block2.weight 320 320 1 1
        conv_in.weight 320 192 3 3"""),
    "T2I-Adapter, diffusers' names": part("controlnet", "a T2I-Adapter", """
        adapter.conv_in.weight 320 192 3 3
        adapter.body.0.resnets.0.block1.weight 320 320 3 3"""),
    "IP-Adapter": part("ip-adapter", "an IP-Adapter for SDXL", """
        image_proj.proj.weight 8192 1280
        ip_adapter.1.to_k_ip.weight 640 2048""", architecture="sdxl"),
    "IP-Adapter FaceID, with a LoRA": part("ip-adapter", "an IP-Adapter", """
        image_proj.proj.0.weight 1024 512
        ip_adapter.0.to_q_lora.down.weight 128 320
        ip_adapter.1.to_k_ip.weight 320 768"""),
    "IP-Adapter of FLUX.1": part("ip-adapter", "an IP-Adapter", """
        double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight 3072 4096
        ip_adapter_proj_model.proj.weight 16384 768"""),
    "Redux": part("style-model", "a FLUX.1 Redux model", "redux_up.weight 12288 1152\nredux_down.weight 4096 12288"),
    "AnimateDiff": part("motion-module", "a motion module", """
        down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe 1 24 320
        up_blocks.2.motion_modules.0.temporal_transformer.norm.weight 640"""),
    "a motion LoRA": part("motion-module", "a motion LoRA", """
        down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora.down.weight 64 320
        down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora.up.weight 320 64"""),
    "CLIP": part("text-encoder", "a CLIP text encoder", CLIP),
    "OpenCLIP": part("text-encoder", "a CLIP text encoder (OpenCLIP)", OPEN_CLIP),
    "T5": part("text-encoder", "a T5 text encoder", T5),
    "Qwen3": part("language-model", "a language model", """
        model.embed_tokens.weight 151936 2560
        model.layers.0.self_attn.q_proj.weight 4096 2560
        model.layers.0.mlp.gate_proj.weight 9728 2560"""),
    "Qwen2.5-VL": part("language-model", "a vision language model", """
        visual.blocks.0.attn.qkv.weight 3840 1280
        model.layers.0.self_attn.q_proj.weight 3584 3584"""),
    "CLIP vision": part("clip-vision", "a CLIP image encoder", """
        vision_model.embeddings.patch_embedding.weight 1280 3 14 14
        vision_model.encoder.layers.0.self_attn.q_proj.weight 1280 1280"""),
    "whole CLIP": part("clip-vision", "a CLIP model", CLIP + "vision_model.post_layernorm.weight 1024"),
    "safety checker": part("safety-checker", "a safety checker", """
        concept_embeds 17 768
        vision_model.vision_model.encoder.layers.0.self_attn.q_proj.weight 1024 1024"""),
    "ESRGAN, first names": part("upscaler", "an upscaler (ESRGAN)", """
        model.0.weight 64 3 3 3
        model.1.sub.0.RDB1.conv1.0.weight 32 64 3 3"""),
    "ESRGAN, new names": part("upscaler", "an upscaler (ESRGAN)", """
        conv_first.weight 64 3 3 3
        body.0.rdb1.conv1.weight 32 64 3 3"""),
    "SwinIR": part("upscaler", "an upscaler (SwinIR", """
        conv_first.weight 180 3 3 3
        layers.0.residual_group.blocks.0.attn.qkv.weight 540 180"""),
    "compact": part("upscaler", "an upscaler (compact)", "body.0.weight 64 3 3 3\nbody.1.weight 64"),
    "YOLO": part("detector", "a detector (YOLO)", """
        model.model.0.conv.weight 16 3 3 3
        model.model.2.cv1.conv.weight 32 32 1 1
        model.model.22.dfl.conv.weight 1 16 1 1"""),
    "SAM": part("segmentation", "a SAM model", """
        image_encoder.blocks.0.attn.rel_pos_h 27 64
        mask_decoder.iou_token.weight 1 256
        prompt_encoder.point_embeddings.0.weight 1 256"""),
    "BiRefNet": part("segmentation", "a background remover", "bb.layers.0.blocks.0.attn.qkv.weight 576 192"),
    "Depth Anything": part("depth", "a depth estimator", """
        pretrained.blocks.0.attn.qkv.weight 3072 1024
        depth_head.projects.0.weight 256 1024 1 1"""),
    "CodeFormer": part("face-restoration", "CodeFormer", """
        fuse_convs_dict.16.scale.0.weight 512 1024 3 3
        quantize.embedding.weight 1024 256
        encoder.blocks.0.weight 64 3 3 3"""),
    "GFPGAN": part("face-restoration", "GFPGAN", "stylegan_decoder.style_mlp.1.weight 512 512"),
    "hypernetwork": part("hypernetwork", "a hypernetwork", """
        768.0.linear.0.weight 1536 768
        768.0.linear.1.weight 768 1536"""),
    "optimizer": part("optimizer", "the state of an optimizer", """
        state.0.exp_avg 320 768 F32
        state.0.exp_avg_sq 320 768 F32"""),
    "aesthetic gradient": part("aesthetic-gradient", "an aesthetic gradient", "aesthetic 1 768"),
    "aesthetic scorer": part("scorer", "an aesthetic scorer", "layers.0.weight 1024 768\nlayers.2.weight 128 1024"),
    "prior": part("prior", "a prior", "prd_embedding 1 1 2048\ntransformer_blocks.0.attn1.to_q.weight 2048 2048"),
    "unknown": part("unknown", "wonder.a, wonder.b, wonder.c", "wonder.a 1\nwonder.b 1\nwonder.c 1\nwonder.d 1"),
}  # fmt: skip

LAYOUTS: dict[str, Layout] = {
    f"{group}: {name}": layout
    for group, rows in (
        ("whole", WHOLE), ("network", ALONE), ("quantised", QUANTISED), ("adapter", ADAPTERS),
        ("words", WORDS), ("part", PARTS),
    )
    for name, layout in rows.items()
}  # fmt: skip
