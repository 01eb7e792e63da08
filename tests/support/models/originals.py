"""Single files of tiny models, under the names that the first releases and ComfyUI use.

diffusers reads these layouts and writes none of them. Stable Diffusion files hold the whole model;
of the others, files with the network alone are what people share. FLUX.1, Chroma and Lumina 2 are
written under diffusers' own names: what reads the original ones counts on the real width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support.models.files import architecture_folder
from tests.support.models.store import ModelStore

__all__ = ["SINGLE_FILES", "single_file"]

Tensors = dict[str, torch.Tensor]
SINGLE_FILES: dict[str, Callable[[Path], Tensors]] = {}
"""Architecture to what makes the tensors of its single file from its folder."""


def single_file(store: ModelStore, name: str) -> Path:
    """A file with the weights of an architecture's tiny model. Read only."""
    base = architecture_folder(store, name)

    def build(folder: Path) -> None:
        folder.mkdir()
        tensors = {key: value.contiguous() for key, value in SINGLE_FILES[name](base).items()}
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})

    return store.folder_of(f"{name}-single", build) / f"{name}.safetensors"


def _layout(*names: str) -> Callable[..., Callable[[Path], Tensors]]:
    def register(make: Callable[[Path], Tensors]) -> Callable[[Path], Tensors]:
        SINGLE_FILES.update(dict.fromkeys(names, make))
        return make

    return register


def _part(folder: Path, name: str) -> Tensors:
    (file,) = (folder / name).glob("*.safetensors")
    return load_file(file)


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def _replaced(tensors: Tensors, table: dict[str, str]) -> Tensors:
    """With each key of ``table`` in a name replaced, in the table's order."""
    result: Tensors = {}
    for key, value in tensors.items():
        for ours, theirs in table.items():
            key = key.replace(ours, theirs)
        result[key] = value
    return result


def _fused(tensors: Tensors, parts: tuple[str, str, str], whole: str) -> Tensors:
    """With queries, keys and values in one matrix, in the place of the queries."""
    result: Tensors = {}
    first, *others = (f".{part}." for part in parts)
    for key, value in tensors.items():
        if first in key:
            rows = [value, *(tensors[key.replace(first, other)] for other in others)]
            result[key.replace(first, f".{whole}.")] = torch.cat(rows)
        elif not any(other in key for other in others):
            result[key] = value
    return result


def _swapped(value: torch.Tensor) -> torch.Tensor:
    """Scale and shift, in the other order."""
    return torch.cat(value.chunk(2)[::-1])


# ---- Stable Diffusion


def _unet(folder: Path) -> Tensors:
    from zoo.single_file import _unet_key

    table = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    result: Tensors = {}
    for key, value in _part(folder, "unet").items():
        place, _, end = key.rpartition(".")
        known = key.startswith("add_embedding")
        result[f"{table[place]}.{end}" if known else _unet_key(key, 1)] = value
    return _prefixed("model.diffusion_model.", result)


def _vae(folder: Path) -> Tensors:
    from zoo.single_file import _vae_key

    levels = len(json.loads((folder / "vae/config.json").read_text())["block_out_channels"])
    result: Tensors = {}
    for key, value in _part(folder, "vae").items():
        new = _vae_key(key, levels)
        flat = ".attn_1." in new and value.ndim == 2
        result[new] = value[:, :, None, None] if flat else value
    return _prefixed("first_stage_model.", result)


def _clip(folder: Path, part: str) -> Tensors:
    return {
        key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}": value
        for key, value in _part(folder, part).items()
    }


def _open_clip(folder: Path, part: str) -> Tensors:
    """A text encoder under the names of the OpenCLIP library."""
    table = {
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.final_layer_norm": "ln_final",
        "text_projection.weight": "text_projection",
        "text_model.encoder.layers": "transformer.resblocks",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn": "attn",
        "attn.in_proj.weight": "attn.in_proj_weight",
        "attn.in_proj.bias": "attn.in_proj_bias",
    }
    fused = _fused(_clip(folder, part), ("q_proj", "k_proj", "v_proj"), "in_proj")
    result = _replaced(fused, table)
    if "text_projection" in result:
        result["text_projection"] = result["text_projection"].T
    return result


@_layout("sd15")
def _sd15(folder: Path) -> Tensors:
    encoder = _prefixed("cond_stage_model.transformer.", _clip(folder, "text_encoder"))
    return _unet(folder) | _vae(folder) | encoder


@_layout("sd2", "sd2-v")
def _sd2(folder: Path) -> Tensors:
    encoder = _prefixed("cond_stage_model.model.", _open_clip(folder, "text_encoder"))
    return _unet(folder) | _vae(folder) | encoder


@_layout("sdxl")
def _sdxl(folder: Path) -> Tensors:
    return (
        _unet(folder)
        | _vae(folder)
        | _prefixed("conditioner.embedders.0.transformer.", _clip(folder, "text_encoder"))
        | _prefixed("conditioner.embedders.1.model.", _open_clip(folder, "text_encoder_2"))
    )


@_layout("sd3", "sd3.5")
def _sd3(folder: Path) -> Tensors:
    """With its three text encoders, as the files "incl clips t5xxl" are."""
    encoders = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
    result = _prefixed("model.diffusion_model.", _sd3_network(_part(folder, "transformer")))
    result |= _vae(folder)
    for name, part in encoders.items():
        result |= _prefixed(f"text_encoders.{name}.transformer.", _clip(folder, part))
    del result["text_encoders.clip_l.transformer.text_projection.weight"]  # the identity there
    t5 = _part(folder, "text_encoder_3")
    t5["shared.weight"] = t5.pop("encoder.embed_tokens.weight", t5.get("shared.weight"))
    return result | _prefixed("text_encoders.t5xxl.transformer.", t5)


def _sd3_network(network: Tensors) -> Tensors:
    top = {
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "pos_embed.proj": "x_embedder.proj",
        "pos_embed.pos_embed": "pos_embed",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    image = {
        "attn.qkv": "x_block.attn.qkv",
        "attn2.qkv": "x_block.attn2.qkv",
        "attn.to_out.0": "x_block.attn.proj",
        "attn2.to_out.0": "x_block.attn2.proj",
        "attn.norm_q": "x_block.attn.ln_q",
        "attn.norm_k": "x_block.attn.ln_k",
        "attn2.norm_q": "x_block.attn2.ln_q",
        "attn2.norm_k": "x_block.attn2.ln_k",
        "norm1.linear": "x_block.adaLN_modulation.1",
        "ff.net.0.proj": "x_block.mlp.fc1",
        "ff.net.2": "x_block.mlp.fc2",
    }
    text = {
        "attn.added_qkv": "context_block.attn.qkv",
        "attn.to_add_out": "context_block.attn.proj",
        "attn.norm_added_q": "context_block.attn.ln_q",
        "attn.norm_added_k": "context_block.attn.ln_k",
        "norm1_context.linear": "context_block.adaLN_modulation.1",
        "ff_context.net.0.proj": "context_block.mlp.fc1",
        "ff_context.net.2": "context_block.mlp.fc2",
    }
    network = _fused(network, ("to_q", "to_k", "to_v"), "qkv")
    network = _fused(network, ("add_q_proj", "add_k_proj", "add_v_proj"), "added_qkv")
    last = max(int(key.split(".")[1]) for key in network if key.startswith("transformer_blocks."))
    result: Tensors = {}
    for key, value in network.items():
        place, _, end = key.rpartition(".")
        if (
            place.startswith("norm_out")
            or place == f"transformer_blocks.{last}.norm1_context.linear"
        ):
            value = _swapped(value)
        if not place.startswith("transformer_blocks."):
            result[f"{top[place]}.{end}" if place in top else top.get(key, key)] = value
            continue
        _, number, inner = place.split(".", 2)
        result[f"joint_blocks.{number}.{(image | text)[inner]}.{end}"] = value
    return result


# ---- networks alone


@_layout("flux1-dev", "flux1-schnell", "chroma", "lumina2", "sana", "qwen-image")
def _own_names(folder: Path) -> Tensors:
    return _part(folder, "transformer")


@_layout("hidream")
def _same_names(folder: Path) -> Tensors:
    return _prefixed("model.diffusion_model.", _part(folder, "transformer"))


@_layout("auraflow")
def _auraflow(folder: Path) -> Tensors:
    names = {
        "time_step_proj.linear_1": "t_embedder.mlp.0",
        "time_step_proj.linear_2": "t_embedder.mlp.2",
        "context_embedder": "cond_seq_linear",
        "pos_embed.pos_embed": "positional_encoding",
        "pos_embed.proj": "init_x_linear",
        "proj_out": "final_linear",
        "norm_out.linear": "modF.1",
        "ff_context.": "mlpC.",
        "norm1_context.linear": "modC.1",
        "linear_1": "c_fc1",
        "linear_2": "c_fc2",
        "out_projection": "c_proj",
    }
    double = {
        "joint_transformer_blocks": "double_layers", ".ff.": ".mlpX.", "norm1.linear": "modX.1",
        "to_q": "w2q", "to_k": "w2k", "to_v": "w2v", "to_out.0": "w2o",
        "add_q_proj": "w1q", "add_k_proj": "w1k", "add_v_proj": "w1v", "to_add_out": "w1o",
    }  # fmt: skip
    single = {
        "single_transformer_blocks": "single_layers", ".ff.": ".mlp.", "norm1.linear": "modCX.1",
        "to_q": "w1q", "to_k": "w1k", "to_v": "w1v", "to_out.0": "w1o",
    }  # fmt: skip
    result: Tensors = {}
    for key, value in _part(folder, "transformer").items():
        value = _swapped(value) if key == "norm_out.linear.weight" else value
        table = names | (double if key.startswith("joint_") else single)
        result |= _replaced({key: value}, table)
    return result


@_layout("z-image")
def _z_image(folder: Path) -> Tensors:
    names = {
        "all_final_layer.2-1.": "final_layer.",
        "all_x_embedder.2-1.": "x_embedder.",
        ".attention.to_out.0.": ".attention.out.",
        ".attention.norm_k.": ".attention.k_norm.",
        ".attention.norm_q.": ".attention.q_norm.",
    }
    network = _fused(_part(folder, "transformer"), ("to_q", "to_k", "to_v"), "qkv")
    return _prefixed("model.diffusion_model.", _replaced(network, names))


@_layout("flux2-dev", "flux2-klein", "flux2-klein-base")
def _flux2(folder: Path) -> Tensors:
    return dict(_flux2_names(_part(folder, "transformer")))


def _flux2_names(network: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    top = {
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
        "single_stream_modulation.linear": "single_stream_modulation.lin",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    }
    blocks = {
        "attn.qkv": "img_attn.qkv",
        "attn.added_qkv": "txt_attn.qkv",
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
        "ff.linear_in": "img_mlp.0",
        "ff.linear_out": "img_mlp.2",
        "ff_context.linear_in": "txt_mlp.0",
        "ff_context.linear_out": "txt_mlp.2",
    }
    single = {
        "attn.to_qkv_mlp_proj": "linear1",
        "attn.to_out": "linear2",
        "attn.norm_q": "norm.query_norm",
        "attn.norm_k": "norm.key_norm",
    }
    network = _fused(network, ("to_q", "to_k", "to_v"), "qkv")
    network = _fused(network, ("add_q_proj", "add_k_proj", "add_v_proj"), "added_qkv")
    for key, value in network.items():
        place, _, end = key.rpartition(".")
        if place in top:
            yield f"{top[place]}.{end}", _swapped(value) if place == "norm_out.linear" else value
            continue
        kind, number, inner = place.split(".", 2)
        alone = kind == "single_transformer_blocks"
        new = (single if alone else blocks)[inner]
        end = "scale" if new.endswith("_norm") else end
        yield f"{'single' if alone else 'double'}_blocks.{number}.{new}.{end}", value
