"""The dtype that nobody chose, what is recorded of it, and memory that runs out."""

import errno
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation import (
    OutOfMemoryError,
    RecipeOverrides,
    default_recipe,
    load_model,
    load_pipeline,
    pipelines,
    placement,
    release_pipeline,
)
from gmi_registry.generation.placement import (
    bytes_in,
    choose_dtype,
    computing_dtypes,
    dtypes_to_try,
    is_out_of_memory,
    keep_decoder_sane,
    memory_of,
    require_memory,
    stored_dtype,
    usual_dtype,
)
from tests.support.tiny_models import model_files

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("pipeline", "network", "stored", "device", "expected"),
    [
        ("StableDiffusionPipeline", "unet", "float32", "cuda", "float16"),
        ("StableDiffusionPipeline", "unet", "bfloat16", "cuda:1", "bfloat16"),
        ("StableDiffusionXLPipeline", "unet", "float16", "cuda", "float16"),
        ("StableDiffusionXLPipeline", "unet", None, "mps", "float16"),
        ("KolorsPipeline", "unet", "float16", "xpu", "float16"),
        ("FluxPipeline", "transformer", "bfloat16", "cuda", "bfloat16"),
        ("FluxPipeline", "transformer", "float16", "cuda", "bfloat16"),
        ("FluxPipeline", "transformer", None, "cuda", "bfloat16"),
        ("Flux2KleinPipeline", "transformer", "float32", "cuda", "bfloat16"),
        ("StableDiffusion3Pipeline", "transformer", "bfloat16", "cuda", "bfloat16"),
        ("QwenImagePipeline", "transformer", "float32", "cuda", "bfloat16"),
        ("ZImagePipeline", "transformer", "bfloat16", "xpu", "bfloat16"),
        ("SanaPipeline", "transformer", "float16", "cuda", "bfloat16"),
        ("TomorrowPipeline", "transformer", "float32", "cuda", "bfloat16"),
        ("PixArtSigmaPipeline", "transformer", "float32", "cuda", "float16"),
        ("HunyuanDiTPipeline", "transformer", "float16", "cuda", "float16"),
        ("AuraFlowPipeline", "transformer", "bfloat16", "cuda", "bfloat16"),
        ("FluxPipeline", "transformer", "bfloat16", "cpu", "float32"),
        ("StableDiffusionPipeline", "unet", "float16", "cpu:0", "float32"),
        (None, "unet", None, "cuda", "float16"),
    ],
)
def test_the_dtype_follows_from_architecture_weights_and_device(
    pipeline, network, stored, device, expected
):
    assert usual_dtype(pipeline, network, stored, device) == expected


def test_what_is_tried_next_is_wider_and_nothing_on_a_processor():
    assert dtypes_to_try("float16", "cuda:1") == ("bfloat16", "float32")
    assert dtypes_to_try("bfloat16", "cuda") == ("float32",)
    assert dtypes_to_try("float32", "cuda") == ()
    assert dtypes_to_try("float16", "cpu") == ()


@pytest.fixture
def base_in(tiny, tmp_path):
    """The base with its network's weights in another type."""

    def made(dtype):
        import shutil

        folder = shutil.copytree(tiny / "base", tmp_path / "other")
        tensors = {name: value.to(dtype) for name, value in load_file(folder / UNET).items()}
        save_file(tensors, folder / UNET)
        return model_files(folder, "tiny/other")

    return made


@pytest.mark.parametrize(
    ("dtype", "stored", "on_a_gpu"),
    [
        (torch.bfloat16, "bfloat16", "bfloat16"),
        (torch.float16, "float16", "float16"),
        (torch.float8_e4m3fn, None, "float16"),
    ],
)
def test_the_stored_dtype_is_the_networks_own(base_in, monkeypatch, dtype, stored, on_a_gpu):
    model = base_in(dtype)
    monkeypatch.setattr(placement, "_computes", lambda device, dtype: True)
    assert stored_dtype(model) == stored
    assert choose_dtype(model, "cuda") == (on_a_gpu, [])
    assert choose_dtype(model, "cpu") == ("float32", [])


def test_a_lora_is_computed_in_its_bases_dtype(base, lora):
    assert stored_dtype(lora) == stored_dtype(base) == "float32"
    assert bytes_in(lora, "float16") == bytes_in(base, "float16") > 100_000
    assert bytes_in(base, "float32") == 2 * bytes_in(base, "float16")


@pytest.mark.parametrize(
    ("works", "expected"),
    [({"bfloat16", "float16"}, "bfloat16"), ({"float16"}, "float16"), (set(), "float32")],
)
def test_a_device_without_bfloat16_falls_back_and_says_so(base_in, monkeypatch, works, expected):
    monkeypatch.setattr(placement, "_computes", lambda device, dtype: dtype in works)
    dtype, notes = choose_dtype(base_in(torch.bfloat16), "cuda")
    assert dtype == expected
    assert notes == (
        []
        if expected == "bfloat16"
        else [f"cuda does not compute in bfloat16, the model's own: {expected} is used"]
    )


# ------------------------------------------------------------------ the autoencoder's own dtype


def test_where_all_is_one_dtype_the_autoencoders_is_not_recorded(base):
    for dtype in ("float32", "bfloat16", "float16"):
        pipeline = load_pipeline(base, device="cpu", dtype=dtype)
        assert computing_dtypes(pipeline) == (dtype, None)


def test_an_autoencoder_in_another_dtype_is_recorded(base):
    pipeline = load_pipeline(base, device="cpu", dtype="bfloat16")
    pipeline.vae.to(torch.float32)
    recipe = default_recipe(pipeline, base, RecipeOverrides())
    assert (recipe.dtype, recipe.vae_dtype) == ("bfloat16", "float32")


def autoencoder(**config):
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, **config)


def xl(coder, dtype):
    """A real SDXL pipeline class around what decides the autoencoder's dtype."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=coder,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=None,
        add_watermarker=False,
    )
    return pipeline.to(dtype)


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        ({"force_upcast": True}, torch.float16, ("float16", "float32")),
        ({}, torch.float16, ("float16", "float32")),  # diffusers' default
        ({"force_upcast": False}, torch.float16, ("float16", None)),  # mended for float16
        ({"force_upcast": True}, torch.bfloat16, ("bfloat16", None)),
    ],
)
def test_what_sdxl_does_with_its_autoencoder_is_recorded(config, dtype, expected):
    assert computing_dtypes(xl(autoencoder(**config), dtype)) == expected


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("PixArtSigmaPipeline", {"force_upcast": True}, torch.float32),
        ("PixArtSigmaPipeline", {"force_upcast": False}, torch.float16),
        ("PixArtSigmaPipeline", {}, torch.float16),
        ("HunyuanDiTPipeline", {"force_upcast": True}, torch.float16),
    ],
)
def test_an_autoencoder_that_nobody_else_widens_is_widened(name, config, expected):
    pipeline = type(name, (), {})()
    pipeline.vae = autoencoder(**config).to(torch.float16)
    keep_decoder_sane(pipeline)
    assert pipeline.vae.dtype == expected


def test_a_watermark_of_another_package_is_not_put_on_images(base, monkeypatch):
    from diffusers import StableDiffusionPipeline

    monkeypatch.setattr(StableDiffusionPipeline, "watermark", object(), raising=False)
    assert load_model(base, device="cpu").pipeline.watermark is None


# ------------------------------------------------------------------ memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("unable to mmap 5135149760 bytes from file <model.safetensors>"),
        OSError(errno.ENOMEM, "whatever it is called here"),
        OSError("Cannot allocate memory (os error 12)"),
    ],
)
def test_out_of_memory_while_loading_is_called_that(base, monkeypatch, error):
    def fail(*arguments, **options):
        try:
            raise error
        except Exception as cause:  # as diffusers wraps what its loaders raise
            raise OSError("Unable to load weights from checkpoint file") from cause

    assert is_out_of_memory(error)
    import diffusers

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", fail)
    with pytest.raises(OutOfMemoryError, match="memory ran out while it was loaded") as caught:
        load_model(base, device="cpu")
    assert "download" not in caught.value.hint
    assert "memory" in caught.value.hint


def test_other_failures_are_not_called_that(base, monkeypatch):
    import diffusers

    def fail(*arguments, **options):
        raise OSError("Error no file named config.json")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", fail)
    with pytest.raises(GenerationError, match="cannot be loaded") as caught:
        load_model(base, device="cpu")
    assert not isinstance(caught.value, OutOfMemoryError)


def test_weights_that_can_never_fit_are_refused_before_they_are_loaded(base, monkeypatch):
    monkeypatch.setattr(placement, "memory_of", lambda device: (1000, 900))
    monkeypatch.setattr(pipelines, "_load", None)
    with pytest.raises(OutOfMemoryError, match="more than all memory of this machine") as caught:
        load_model(base, device="cpu")
    assert "local:tiny/base" in str(caught.value)
    assert "--dtype" in caught.value.hint


def test_weights_that_do_not_fit_now_are_a_note(base, monkeypatch):
    monkeypatch.setattr(placement, "memory_of", lambda device: (10**12, 1000))
    (note,) = load_model(base, device="cpu").notes
    assert "0.0 GB of memory are free on this machine" in note


def test_memory_counts_where_the_weights_lie(monkeypatch):
    totals = {"cuda": (24 * 10**9, 20 * 10**9), "cpu": (64 * 10**9, 50 * 10**9)}
    monkeypatch.setattr(placement, "memory_of", totals.get)
    with pytest.raises(
        OutOfMemoryError, match=r"33\.0 GB in bfloat16, .* cuda, 24\.0 GB"
    ) as caught:
        require_memory("m", 33 * 10**9, "cuda", None, "bfloat16")
    assert "--offload" in caught.value.hint
    assert require_memory("m", 33 * 10**9, "cuda", "model", "bfloat16") == []
    (note,) = require_memory("m", 22 * 10**9, "cuda", None, "bfloat16")
    assert "20.0 GB of memory are free on cuda" in note


def test_this_machine_tells_its_memory():
    total, free = memory_of("cpu")
    assert total > 10**8
    assert free is None or 0 < free <= total


def test_a_pipeline_that_was_let_go_holds_no_network(base):
    pipeline = load_pipeline(base, device="cpu")
    release_pipeline(pipeline, "cpu")
    assert not any(pipeline.components.values())


# ------------------------------------------------------------------ offloading


class Recording:
    """A pipeline that keeps what it is told to do with its networks."""

    def __init__(self):
        self.calls = []
        self.vae = SimpleNamespace(enable_slicing=lambda: self.calls.append("slicing"))

    def to(self, device):
        self.calls.append(("to", device))

    def enable_model_cpu_offload(self, device):
        self.calls.append(("model", device))

    def enable_sequential_cpu_offload(self, device):
        self.calls.append(("sequential", device))


@pytest.mark.parametrize(
    ("offload", "calls"),
    [
        (None, [("to", "cuda:1")]),
        ("model", [("model", "cuda:1"), "slicing"]),
        ("sequential", [("sequential", "cuda:1"), "slicing"]),
    ],
)
def test_offloading_leaves_the_networks_to_diffusers(offload, calls):
    pipeline = Recording()
    placement.place_pipeline(pipeline, "cuda:1", offload)
    assert pipeline.calls == calls


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_needs_a_gpu(base, offload):
    with pytest.raises(InputError, match=r"--offload .* without a GPU") as caught:
        load_model(base, device="cpu", offload=offload)
    assert "--device cuda" in caught.value.hint
