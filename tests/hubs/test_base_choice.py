"""Where a base model comes from, on both hubs: --base, the card, the file's metadata, or layers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save

from gmi_registry.errors import AuthError, HubError, InputError
from gmi_registry.generation import describe
from gmi_registry.generation.specification import _base_notes
from gmi_registry.hubs import LocalHub
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.open import find_base
from gmi_registry.spec import ModelRef
from tests.support.loopback import LoopbackHub
from tests.support.publishing import publish

LORA_NAME = "pytorch_lora_weights.safetensors"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
PONY = "stablediffusionapi/pony-diffusion-v6-xl"
_ATTENTION = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def lora(width=2048, **metadata):
    """A LoRA of one layer; width 768 is that of Stable Diffusion 1, 2048 that of SDXL."""
    tensors = {
        f"{_ATTENTION}.lora_A.weight": np.ones((2, width), np.float32),
        f"{_ATTENTION}.lora_B.weight": np.ones((64, 2), np.float32),
    }
    return save(tensors, metadata={key: str(value) for key, value in metadata.items()} or None)


def untold(**metadata):
    """A LoRA whose layers could be several networks'."""
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"
    tensors = {
        f"{name}.lora_A.weight": np.ones((2, 16), np.float32),
        f"{name}.lora_B.weight": np.ones((16, 2), np.float32),
    }
    return save(tensors, metadata=metadata or None)


def card(**fields):
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items())
    return f"---\nlicense: mit\ntags: [ink]\n{lines}---\n# A model\n".encode()


def pipeline(name="StableDiffusionXLPipeline", *, width=2048, weights=b"unet"):
    index = {"_class_name": name, "unet": ["diffusers", "UNet2DConditionModel"]}
    return {
        "model_index.json": json.dumps(index).encode(),
        "unet/config.json": json.dumps({"cross_attention_dim": width}).encode(),
        "unet/diffusion_pytorch_model.safetensors": weights,
    }


SD15 = pipeline("StableDiffusionPipeline", width=768)


@pytest.fixture
def hub(hf_hub):
    hf_hub.add_repo(SDXL, pipeline())
    hf_hub.add_repo(PONY, pipeline(weights=b"pony"))
    hf_hub.add_repo(SD1, SD15)
    hf_hub.add_repo("ada/base", pipeline(weights=b"ada's"))
    with HuggingFaceHub(token=False) as opened:
        yield opened


def style(hf_hub: LoopbackHub, content: bytes, readme: bytes | None = None) -> ModelRef:
    files = {LORA_NAME: content} | ({} if readme is None else {"README.md": readme})
    hf_hub.add_repo("ada/style", files)
    return ModelRef("hf", "ada/style")


class TestHuggingFace:
    def test_the_order(self, hf_hub, hub):
        """Each word counts until a surer one is there."""
        ref = style(hf_hub, lora())
        found = hub.outline(ref)
        assert (found.base.ref.id, found.base_origin) == (SDXL, "architecture")
        assert any("guess" in note and "--base REPO" in note for note in found.notes)
        with HuggingFaceHub(token=False) as again:
            hf_hub.commit("ada/style", {LORA_NAME: lora(ss_sd_model_name="290640.safetensors")})
            found = again.outline(ref)
            assert (found.base.ref.id, found.base_origin) == (PONY, "metadata")
            assert "ss_sd_model_name in its metadata is 290640.safetensors" in found.notes[0]
            assert "guess" not in found.notes[0]
            hf_hub.commit("ada/style", {"README.md": card(base_model="ada/base")})
            found = again.outline(ref)
            assert (found.base.ref.id, found.base_origin) == ("ada/base", "card")
            assert found.notes == ()
            found = again.outline(ref, ModelRef("hf", SDXL))
            assert (found.base.ref.id, found.base_origin) == (SDXL, "option")

    def test_it_is_delivered_and_recorded(self, hf_hub, hub):
        ref = style(hf_hub, lora(), card(base_model="ada/base"))
        sha = hf_hub.repo(PONY).refs["refs/heads/main"]
        model = hub.fetch_model(ref, ModelRef("hf", PONY, "main"))
        assert (model.base.ref.id, model.base.ref.revision) == (PONY, sha)
        described = describe(model)
        assert (described.base_model, described.base_origin) == (PONY, "option")
        assert described.base_revision == "main"
        assert described.base_weights == model.base.weights
        assert described.named_base == ModelRef("hf", PONY, "main")
        plain = describe(hub.fetch_model(ref))
        assert (plain.base_model, plain.base_origin) == ("ada/base", None)
        assert plain.named_base is None

    def test_what_was_taken_is_recorded_as_taken(self, hf_hub, hub):
        ref = style(hf_hub, lora())
        described = describe(hub.fetch_model(ref))
        assert (described.base_model, described.base_origin) == (SDXL, "architecture")
        assert described.named_base is None

    def test_the_repository_that_the_metadata_name(self, hf_hub, hub):
        ref = style(hf_hub, lora(ss_sd_model_name="ada/base", ss_base_model_version="sdxl"))
        found = hub.outline(ref)
        assert (found.base.ref.id, found.base_origin) == ("ada/base", "metadata")

    def test_a_repository_in_the_metadata_that_is_gone_is_not_replaced(self, hf_hub, hub):
        ref = style(hf_hub, lora(ss_sd_model_name="ada/gone", ss_base_model_version="sdxl"))
        with pytest.raises(AuthError, match="ada/gone, is not open") as caught:
            hub.outline(ref)
        assert "--base REPO" in caught.value.hint

    def test_a_deleted_base_in_the_metadata_is_found_where_a_copy_is_kept(self, hf_hub, hub):
        ref = style(hf_hub, lora(768, ss_sd_model_name="runwayml/stable-diffusion-v1-5"))
        assert hub.outline(ref).base.ref.id == SD1

    @pytest.mark.parametrize("content", [untold(), untold(ss_base_model_version="my-own-model")])
    def test_nothing_says_it(self, hf_hub, hub, content, tmp_path):
        ref = style(hf_hub, content)
        assert hub.outline(ref).base is None
        with pytest.raises(HubError, match="its card names no base model") as caught:
            publish(ref, hub, work=tmp_path, output=tmp_path / "out", dry_run=True, device="cpu")
        assert "--base REPO" in caught.value.hint

    def test_a_family_that_is_refused(self, hf_hub, hub, tmp_path):
        ref = style(hf_hub, untold(ss_base_model_version="zimage"))
        with pytest.raises(HubError, match="is made for Z-Image, which is") as caught:
            publish(ref, hub, work=tmp_path, output=tmp_path / "out", dry_run=True, device="cpu")
        assert "--base REPO" in caught.value.hint

    @pytest.mark.parametrize(
        ("base", "named"), [("card", "its model card names it"), ("option", "--base names it")]
    )
    def test_a_base_of_another_kind_is_refused_before_any_weights(self, hf_hub, hub, base, named):
        ref = style(hf_hub, lora(), card(base_model=SD1) if base == "card" else None)
        hf_hub.clear_requests()
        option = None if base == "card" else ModelRef("hf", SD1)
        with pytest.raises(HubError, match="was made for SDXL, while its base model") as caught:
            hub.outline(ref, option)
        assert named in caught.value.message
        assert "--base REPO" in caught.value.hint
        assert not [it for it in hf_hub.requests if "/storage/" in it.path and it.status == 200]

    def test_metadata_contradict_a_card_where_layers_do_not_tell(self, hf_hub, hub):
        content = untold(ss_base_model_version="sdxl_base_v1-0")
        ref = style(hf_hub, content, card(base_model=SD1))
        with pytest.raises(HubError, match="sdxl_base_v1-0"):
            hub.outline(ref)

    def test_of_several_the_first_whole_model(self, hf_hub, hub):
        hf_hub.add_repo("ada/other-lora", {LORA_NAME: lora(), "README.md": card(base_model=SDXL)})
        names = ["ada/gone", "ada/other-lora", "ada/base", SDXL]
        ref = style(hf_hub, lora(), card(base_model=names, base_model_relation="merge"))
        found = hub.outline(ref)
        assert found.base.ref.id == "ada/base"
        assert found.notes == (
            "hf:ada/style: its card names 4 base models, and ada/base is used (ada/gone "
            "cannot be used); --base names another",
        )

    def test_a_card_that_names_a_family_is_told_its_repository(self, hf_hub, hub):
        ref = style(hf_hub, lora(), card(base_model="SDXL 1.0"))
        with pytest.raises(HubError, match=r"SDXL 1\.0, is not the name of a model") as caught:
            hub.outline(ref)
        assert f"--base {SDXL}" in caught.value.hint

    @pytest.mark.parametrize("said", ["card", "hub"])
    def test_a_quantised_copy_stands_for_its_original(self, hf_hub, hub, said):
        fields = {"base_model": SDXL}
        if said == "card":
            fields["base_model_relation"] = "quantized"
        else:
            fields["tags"] = [f"base_model:quantized:{SDXL}"]
        copy = {f"q{bits}.gguf": b"GGUF" + bytes(60) for bits in (4, 8)}
        hf_hub.add_repo("ada/copy", copy | {"README.md": card(**fields)})
        ref = style(hf_hub, lora(), card(base_model="ada/copy"))
        model = hub.fetch_model(ref)
        assert model.base.ref.id == SDXL
        assert describe(model).base_model == SDXL
        (note,) = _base_notes(model)
        assert "ada/copy is a quantised copy of" in note
        assert "--base ada/copy" in note

    def test_a_whole_file_takes_the_configuration_of_the_parent(self, hf_hub, hub):
        tensors = {
            "model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3),
            "model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (
                8,
                2048,
            ),
            "model.diffusion_model.label_emb.0.0.weight": (8, 8),
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (4,),
            "conditioner.embedders.1.model.ln_final.weight": (4,),
            "first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3),
            "first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3),
        }
        content = save(
            {name: np.zeros(shape, np.float16) for name, shape in tensors.items()},
            metadata={"ss_sd_model_name": "ponyDiffusionV6XL.safetensors"},
        )
        hf_hub.add_repo("ada/merged", {"merged.safetensors": content})
        model = hub.fetch_model(ModelRef("hf", "ada/merged"))
        assert (model.kind, model.base.ref.id, model.base.weights) == ("single-file", SDXL, ())
        assert model.base_origin == "metadata"

    def test_of_several_one_that_is_closed_is_not_passed_over(self, hf_hub, hub):
        hf_hub.repo("ada/base").gated = "manual"
        ref = style(hf_hub, lora(), card(base_model=["ada/base", SDXL]))
        with pytest.raises(AuthError, match="ada/base, is not open"):
            hub.outline(ref)

    def test_a_named_base_goes_before_metadata_and_not_before_layers(self, hf_hub, hub):
        ref = style(hf_hub, untold(ss_base_model_version="sdxl_base_v1-0"))
        assert hub.outline(ref, ModelRef("hf", SD1)).base.ref.id == SD1

    def test_a_file_may_stand_on_the_pipeline_beside_it(self, hf_hub, hub):
        hf_hub.add_repo("ada/both", pipeline() | {"style.safetensors": lora()})
        ref = ModelRef("hf", "ada/both", None, "style.safetensors")
        base = hub.outline(ref, ModelRef("hf", "ada/both")).base
        assert (base.ref.id, base.ref.file, base.kind) == ("ada/both", None, "checkpoint")
        with pytest.raises(HubError, match="in a circle"):
            hub.outline(ref, ref)

    def test_a_whole_model_takes_no_base(self, hf_hub, hub):
        with pytest.raises(InputError, match="needs no base model") as caught:
            hub.outline(ModelRef("hf", "ada/base"), ModelRef("hf", SDXL))
        assert caught.value.hint == "leave out --base"

    def test_a_base_that_is_not_there_or_closed(self, hf_hub, hub):
        ref = style(hf_hub, lora())
        with pytest.raises(AuthError, match="ada/none, is not open") as caught:
            hub.outline(ref, ModelRef("hf", "ada/none"))
        assert "correct --base" in caught.value.hint
        hf_hub.repo("ada/base").gated = "manual"
        with pytest.raises(AuthError, match="is not open"):
            hub.outline(ref, ModelRef("hf", "ada/base"))


class TestNames:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("ada/base", "hf:ada/base"),
            ("hf:ada/base@v1", "hf:ada/base@v1"),
            ("https://huggingface.co/ada/base", "hf:ada/base"),
            ("ada/base/one.safetensors", "hf:ada/base/one.safetensors"),
        ],
    )
    def test_on_hugging_face(self, hub, text, expected):
        assert str(find_base(text, hub)) == expected

    @pytest.mark.parametrize("text", ["local:x", "civitai:1@2", "a/b/c/d", "\x1b[2J", ""])
    def test_others_are_refused(self, hub, text):
        with pytest.raises(InputError) as caught:
            find_base(text, hub)
        assert caught.value.message.isprintable()


class TestFolder:
    @pytest.fixture
    def hub(self, tmp_path):
        hub = LocalHub.create(tmp_path / "hub", tmp_path / "cache")
        self.add(hub, "xl", pipeline())
        self.add(hub, "other", pipeline(weights=b"other"))
        return hub

    def add(self, hub, name, files):
        for path, content in files.items():
            place = hub.root / "models" / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return ModelRef("local", name)

    def weights(self):
        return save({"conv_in.weight": np.zeros((4, 4, 3, 3), np.float16)})

    def test_the_option_goes_before_the_card(self, hub):
        files = {LORA_NAME: lora(), "README.md": card(base_model="xl")}
        ref = self.add(hub, "style", files)
        self.add(hub, "xl", {"unet/diffusion_pytorch_model.safetensors": self.weights()})
        self.add(hub, "other", {"unet/diffusion_pytorch_model.safetensors": self.weights()})
        assert describe(hub.fetch_model(ref)).base_model == "xl"
        described = describe(hub.fetch_model(ref, find_base("other", hub)))
        assert (described.base_model, described.base_origin) == ("other", "option")
        assert described.named_base == ModelRef("local", "other")

    def test_of_several_the_first_that_is_here(self, hub):
        readme = card(base_model=["far/away", "other", "xl"])
        ref = self.add(hub, "style", {LORA_NAME: lora(), "README.md": readme})
        model = hub.fetch_model(ref)
        assert model.base.ref.id == "other"
        assert "names 3 base models" in model.notes[0]

    def test_a_quantised_copy_stands_for_its_original(self, hub):
        readme = card(base_model="xl", base_model_relation="quantized")
        self.add(hub, "copy", {**pipeline(weights=b"4 bits"), "README.md": readme})
        files = {LORA_NAME: lora(), "README.md": card(base_model="copy")}
        model = hub.fetch_model(self.add(hub, "style", files))
        assert model.base.ref.id == "xl"
        assert "copy is a quantised copy of xl" in model.notes[0]

    def test_metadata_name_no_model_of_a_folder(self, hub, tmp_path):
        files = {LORA_NAME: lora(ss_base_model_version="sdxl_base_v1-0"), "README.md": card()}
        ref = self.add(hub, "style", files)
        assert hub.fetch_model(ref).base is None
        with pytest.raises(HubError, match=r"it was made for SDXL 1\.0") as caught:
            publish(ref, hub, work=tmp_path, output=tmp_path / "out", dry_run=True, device="cpu")
        assert "--base local:NAME" in caught.value.hint

    @pytest.mark.parametrize("text", ["hf:ada/base", "https://huggingface.co/ada/base"])
    def test_a_base_of_another_hub_is_refused(self, hub, text):
        with pytest.raises(InputError, match="cannot be the base"):
            find_base(text, hub)
        with pytest.raises(InputError, match="of the same hub"):
            hub.fetch_model(self.add(hub, "style", {LORA_NAME: lora()}), ModelRef("hf", "ada/base"))

    def test_a_whole_model_takes_no_base(self, hub):
        with pytest.raises(InputError, match="needs no base model"):
            hub.fetch_model(ModelRef("local", "xl"), ModelRef("local", "other"))

    def test_a_base_of_another_kind_is_refused_before_it_is_loaded(self, hub, tmp_path):
        self.add(hub, "sd", pipeline("StableDiffusionPipeline", width=768, weights=self.weights()))
        files = {LORA_NAME: lora(), "README.md": card(base_model="sd")}
        ref = self.add(hub, "style", files)
        with pytest.raises(HubError, match=r"was made for SDXL.*is Stable Diffusion 1\.x"):
            publish(ref, hub, work=tmp_path, output=tmp_path / "out", dry_run=True, device="cpu")
