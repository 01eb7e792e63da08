"""The base model: a Stable Diffusion pipeline in small, trained on all sixteen styles."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from zoo.autoencoder import encode
from zoo.captions import caption, draw_kinds
from zoo.names import names
from zoo.pictures import Pictures
from zoo.training import Plan, Training, device

PLAN = Plan(steps=9000, rate=1.2e-3, warmup=100, average=0.998)
BATCH = 64
CAPTION_SHARES = (0.6, 0.2, 0.1, 0.1)
"""Name and style, name alone, style alone, nothing (for classifier-free guidance)."""
CONTEXT = 32


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        projection_dim=64,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    return CLIPTextModel(config)


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's own byte-pair vocabulary, as open_clip ships it, in transformers' files."""
    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    folder.mkdir(parents=True, exist_ok=True)
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {
        special.get(word, word): row for word, row in open_clip.SimpleTokenizer().encoder.items()
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8"
    )
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=CONTEXT,
        pad_token="<|endoftext|>",
    )


def build_scheduler() -> DDIMScheduler:
    """Zero terminal SNR: a pipeline that starts from pure noise can still make white paper."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    batch = tokenizer(
        texts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
    )
    return torch.as_tensor(batch["input_ids"])


def denoising_loss(
    unet: torch.nn.Module,
    scheduler: DDIMScheduler,
    latents: torch.Tensor,
    context: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity at uniformly drawn time steps."""
    count = len(latents)
    steps = torch.randint(scheduler.config.num_train_timesteps, (count,), generator=generator)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    steps = steps.to(latents.device)
    noisy = scheduler.add_noise(latents, noise, steps)
    with torch.autocast(device().type, dtype=torch.bfloat16):
        predicted = unet(noisy, steps, context).sample
    target = scheduler.get_velocity(latents, noise, steps)
    loss: torch.Tensor = (predicted.float() - target).square().mean()
    return loss


class BaseModel(torch.nn.Module):
    """What trains together: the UNet and the text encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.unet = build_unet().to(memory_format=torch.channels_last)
        self.text_encoder = build_text_encoder()


def train(pictures: Pictures, vae: AutoencoderKL, work: Path, folder: Path) -> None:
    """Train the base and write it to ``folder`` in the pipeline's layout, float16."""
    model = BaseModel().to(device())
    tokenizer, scheduler = build_tokenizer(work / "tokenizer"), build_scheduler()
    rows = pictures.rows(names())
    drawings = pictures.pixels[:, rows]
    latents = encode(vae.to(device()), drawings.reshape(-1, *drawings.shape[2:]))

    def loss(generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(latents), (BATCH,), generator=generator)
        kinds = draw_kinds(CAPTION_SHARES, BATCH, generator)
        texts = [
            caption(kind, names()[row % len(rows)], row // len(rows))
            for kind, row in zip(kinds, chosen.tolist(), strict=True)
        ]
        context = model.text_encoder(tokens(tokenizer, texts).to(device())).last_hidden_state
        batch = latents[chosen].to(device(), memory_format=torch.channels_last)
        return denoising_loss(model.unet, scheduler, batch, context, generator)

    Training("base", model, loss, PLAN, seed=6, work=work).run()
    pipeline = StableDiffusionPipeline(
        vae=vae.cpu(),
        text_encoder=model.text_encoder.cpu(),
        tokenizer=tokenizer,
        unet=model.unet.cpu(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    silence_unseen_words(model.text_encoder, tokenizer)
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    forget_path(folder / "vae" / "config.json")


def forget_path(config: Path) -> None:
    """Take out where a part was loaded from, which says nothing to anyone elsewhere."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    config.write_text(text, encoding="utf-8")


def silence_unseen_words(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    """Words that no caption held get a zero vector, not the noise they were born with."""
    texts = [caption(0, name, 0) for name in names()]
    texts += [caption(0, names()[0], style) for style in range(16)] + [""]
    table = text_encoder.get_parameter("embeddings.token_embedding.weight")
    seen = torch.zeros(len(table), dtype=torch.bool)
    seen[tokens(tokenizer, texts).flatten()] = True
    with torch.no_grad():
        table[~seen] = 0
