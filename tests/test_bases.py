"""The table of base models: every name has one answer, and what a file says is read as it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from gmi_registry.bases import (
    base_named,
    base_of_file,
    claimed_family,
    families,
    family_named,
    family_of_file,
    family_of_layers,
    known_bases,
    pipeline_architectures,
    repository_of,
    require_made_for,
    stated_base,
)
from gmi_registry.errors import HubError
from gmi_registry.hubs.huggingface.listing import KEPT_ELSEWHERE
from gmi_registry.spec import ModelRef
from gmi_registry.weights import WeightsFile, architecture_title

# fmt: off
CIVITAI = (
    "ACE Audio", "Anima", "AuraFlow", "Chroma", "CogVideoX", "Ernie", "Flux.1 D", "Flux.1 Kontext",
    "Flux.1 Krea", "Flux.1 S", "Flux.2 D", "Flux.2 Klein 4B", "Flux.2 Klein 4B-base",
    "Flux.2 Klein 9B", "Flux.2 Klein 9B-base", "Grok", "Hailuo by MiniMax", "HappyHorse", "HiDream",
    "HiDream-O1", "Hunyuan 1", "Hunyuan Video", "Ideogram 4.0", "Illustrious", "Imagen4", "Kling",
    "Kolors", "Krea 2", "LTXV", "LTXV 2.3", "LTXV2", "Lens", "Lumina", "MAI", "Mochi",
    "Nano Banana", "NoobAI", "ODOR", "OpenAI", "Other", "PixArt E", "PixArt a", "Playground v2",
    "Pony", "Pony V7", "Qwen", "Qwen 2", "SD 1.4", "SD 1.5", "SD 1.5 Hyper", "SD 1.5 LCM",
    "SD 2.0", "SD 2.0 768", "SD 2.1", "SD 2.1 768", "SD 2.1 Unclip", "SD 3", "SD 3.5",
    "SD 3.5 Large", "SD 3.5 Large Turbo", "SD 3.5 Medium", "SDXL 0.9", "SDXL 1.0", "SDXL 1.0 LCM",
    "SDXL Distilled", "SDXL Hyper", "SDXL Lightning", "SDXL Turbo", "SVD", "SVD XT", "Seedance",
    "Seedance 2", "Seedream", "Sora 2", "Stable Cascade", "Upscaler", "Veo 3", "Vidu Q1",
    "Wan Image 2.7", "Wan Video", "Wan Video 1.3B t2v", "Wan Video 14B i2v 480p",
    "Wan Video 14B i2v 720p", "Wan Video 14B t2v", "Wan Video 2.2 I2V-A14B",
    "Wan Video 2.2 T2V-A14B", "Wan Video 2.2 TI2V-5B", "Wan Video 2.5 I2V", "Wan Video 2.5 T2V",
    "Wan Video 2.7", "ZImageBase", "ZImageTurbo",
)
"""All that a version's ``baseModel`` may be, of civitai/civitai's basemodel.constants.ts."""
# fmt: on
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def lora(architecture=None, **more):
    return WeightsFile("lora", "a LoRA", architecture=architecture, **more)


def test_every_name_on_civitai_has_an_answer():
    assert {name for family in families() for name in family.names} == set(CIVITAI)


@pytest.mark.parametrize("name", CIVITAI)
def test_the_answer_is_a_repository_or_a_refusal_with_the_way_out(name):
    family = family_named(name)
    assert family is family_named(name.upper())
    if name in known_bases():
        assert base_named(name.lower(), "civitai:1@2") is family
        return
    with pytest.raises(HubError) as caught:
        base_named(name, "civitai:1@2")
    assert caught.value.message.startswith(f"civitai:1@2 is made for {name}, ")
    assert "--base REPO" in caught.value.hint


@pytest.mark.parametrize("name", ["Flux.9 D", "", "\x1b[2J" * 50])
def test_a_name_that_nobody_knows_is_refused_on_one_line(name):
    assert family_named(name) is None
    with pytest.raises(HubError, match="does not know") as caught:
        base_named(name, "civitai:1@2")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200
    assert "--base REPO" in caught.value.hint


def test_no_word_has_two_answers():
    for words in ("names", "claims", "files", "hashes"):
        said = Counter(it.casefold() for family in families() for it in getattr(family, words))
        assert [word for word, times in said.items() if times > 1] == []
    assert len({family.title for family in families()}) == len(families())
    for family in families():
        for claim in family.claims:
            assert claimed_family(claim) is family
            assert claimed_family(f"{claim.upper().replace('-', '_')}/lora") is family
        assert all(len(digest) in (8, 64) and int(digest, 16) for digest in family.hashes)


def test_every_row_is_whole():
    titles = {family.title: family for family in families()}
    for family in families():
        assert (family.repository is None) == (family.refusal is not None)
        for repository in (family.repository, family.layout):
            if repository is not None:
                assert str(ModelRef("hf", repository)) == f"hf:{repository}"
                assert repository.casefold() not in KEPT_ELSEWHERE
        if family.architecture is not None:
            assert architecture_title(family.architecture)
        if family.v_prediction is not None:
            sister = titles[family.v_prediction]
            assert sister.prediction_type == "v_prediction"
            assert sister.architecture == family.architecture
        air = ModelRef("civitai", "1", "2").air(family.ecosystem, "lora")
        assert ModelRef.parse(air) == ModelRef("civitai", "1", "2")


@pytest.mark.parametrize(
    ("claim", "title"),
    [
        ("sd_v1", "SD 1.5"),
        ("sd_v2", "SD 2.1"),
        ("sd_v2_v", "SD 2.1 768"),
        ("sdxl_base_v0-9", "SDXL 0.9"),
        ("sdxl_base_v1-0", "SDXL 1.0"),
        ("SDXL 1.0", "SDXL 1.0"),
        ("flux1", "Flux.1 D"),
        ("Flux.1-dev", "Flux.1 D"),
        ("flux-1-schnell/lora", "Flux.1 S"),
        ("flux.1_kontext", "Flux.1 Kontext"),
        ("stable-diffusion-v1/textual-inversion", "SD 1.5"),
        ("stable-diffusion-v2-768-v", "SD 2.1 768"),
        ("stable-diffusion-xl-v1-base/lora", "SDXL 1.0"),
        ("stable-diffusion-xl-v1-refiner", "the SDXL refiner"),
        ("stable-diffusion-3-5-large/lora", "SD 3.5 Large"),
        ("stable-diffusion-v3.5-medium", "SD 3.5 Medium"),
        ("lumina-2", "Lumina"),
        ("chroma/lora", "Chroma"),
        ("@@Qwen-Image-Edit-Plus@@", "Qwen-Image-Edit"),
        ("qwen_image", "Qwen"),
        ("zimage", "Z-Image"),
        ("zimage:turbo", "ZImageTurbo"),
        ("wan_2.1", "Wan Video"),
        ("flux2_klein_9b", "Flux.2 Klein"),
        ("Anima", "Anima"),
    ],
)
def test_what_trainers_write_is_understood(claim, title):
    assert claimed_family(claim).title == title


@pytest.mark.parametrize(
    "claim", ["", "/lora", "sd", "None", "sdxl_base_v1-0_and_more", "a" * 10**6]
)
def test_other_words_claim_nothing(claim):
    assert claimed_family(claim) is None


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("ponyDiffusionV6XL_v6StartWithThisOne.safetensors", "Pony"),
        ("Illustrious-XL-v0.1.safetensors", "Illustrious"),
        ("noobaiXLNAIXL_vPred10Version.safetensors", "NoobAI v-prediction"),
        ("noobaiXLNAIXL_epsilonPred11Version.safetensors", "NoobAI"),
        (r"D:\models\sd_xl_base_1.0_0.9vae.safetensors", "SDXL 1.0"),
        ("/models/flux1-dev.safetensors", "Flux.1 D"),
        ("flux1-schnell.safetensors", "Flux.1 S"),
        ("sd3.5_large_turbo.safetensors", "SD 3.5 Large Turbo"),
        ("sd3.5_large.safetensors", "SD 3.5 Large"),
        ("v1-5-pruned-emaonly.ckpt", "SD 1.5"),
    ],
)
def test_files_that_are_shared_under_well_known_names(name, title):
    assert family_of_file(name).title == title


def test_files_of_other_names_tell_nothing():
    for name in ("", "my merge.safetensors", "ponyrealism.safetensors", "sdxlUnstable.safetensors"):
        assert family_of_file(name) is None


class TestMetadata:
    def test_the_surest_word_counts(self):
        said = {
            "ss_base_model_version": "sdxl_base_v1-0",
            "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        }
        assert stated_base(said).family.title == "SDXL 1.0"
        named = said | {"ss_sd_model_name": "ponyDiffusionV6XL_v6.safetensors"}
        assert stated_base(named).family.title == "Pony"
        hashed = named | {
            "ss_new_sd_model_hash": (
                "3E15BA00387DB678AB4A099F75771C4F5AC67FDA9E7100A01D263EAF30145AA9"
            )
        }
        assert stated_base(hashed).family.title == "Illustrious"
        repository = hashed | {"ss_sd_model_name": "cagliostrolab/animagine-xl-3.1"}
        found = stated_base(repository)
        assert (found.repository, found.title) == ("cagliostrolab/animagine-xl-3.1",) * 2
        assert repository_of(found, "x", whole=False) == "cagliostrolab/animagine-xl-3.1"
        assert stated_base({}) is None
        assert stated_base({"ss_base_model_version": "secret-model-9"}) is None

    def test_a_file_name_of_another_architecture_than_is_claimed_is_not_believed(self):
        said = {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "sd_xl_base_1.0.safetensors"}
        assert stated_base(said).family.title == "SD 1.5"

    @pytest.mark.parametrize("name", ["a/b.safetensors", "../x", "a/b/c", "a b/c", "/a", "C:\\a/b"])
    def test_a_path_is_no_repository(self, name):
        found = stated_base({"ss_sd_model_name": name, "ss_base_model_version": "sd_v1"})
        assert (found.repository, found.family.title) == (None, "SD 1.5")

    def test_v_prediction_means_the_sister_that_was_trained_for_it(self):
        for name, plain, sister in (
            ("sd_v2", "SD 2.1", "SD 2.1 768"),
            ("NoobAI", "NoobAI", "NoobAI v-prediction"),
            ("sdxl_base_v1-0", "SDXL 1.0", "SDXL 1.0"),
        ):
            said = {"ss_base_model_version": name}
            assert stated_base(said, "epsilon").family.title == plain
            assert stated_base(said, "v_prediction").family.title == sister

    def test_strangers_text_is_escaped(self):
        said = {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "\x1b[2J\nevil" + "x" * 999}
        words = stated_base(said).words
        assert words.isprintable()
        assert len(words) < 250


class TestFile:
    def test_layers_alone_are_a_guess(self):
        found = base_of_file("hf:a/b", lora("sdxl"), {})
        assert (found.origin, repository_of(found, "x", whole=False)) == ("architecture", SDXL)
        assert "layers" in found.words
        assert repository_of(base_of_file("x", lora("sd1"), {}), "x", whole=True) == SD1

    def test_a_whole_file_of_a_daughter_is_read_by_the_parents_configuration(self):
        found = base_of_file("x", lora("sdxl"), {"ss_base_model_version": "pony"})
        assert repository_of(found, "x", whole=True) == SDXL
        assert "pony" in repository_of(found, "x", whole=False)

    @pytest.mark.parametrize(
        ("architecture", "variant", "title"),
        [
            ("flux1", "schnell", "Flux.1 S"),
            ("flux1", "dev", "Flux.1 D"),
            ("flux1", None, "Flux.1 D"),
            ("sd3", "3.5-large", "SD 3.5 Large"),
            ("sd3", "3.5-medium", "SD 3.5 Medium"),
            ("pixart", "sigma", "PixArt E"),
            ("pixart", "alpha", "PixArt a"),
        ],
    )
    def test_a_member_that_the_layers_tell(self, architecture, variant, title):
        assert family_of_layers(architecture, variant, None, "x").title == title
        found = base_of_file("x", lora(architecture, variant=variant), {})
        assert found.family.title == title

    @pytest.mark.parametrize(
        "architecture",
        ["sd2", "sd3", "flux2", "pixart", "z-image", "sana", "hidream", "hunyuandit"],
    )
    def test_what_decides_the_images_is_not_guessed(self, architecture):
        with pytest.raises(HubError, match=r"^x is made for") as caught:
            base_of_file("x", lora(architecture), {})
        assert "--base REPO" in caught.value.hint

    def test_what_the_name_leaves_open_the_layers_may_tell(self):
        said = {"ss_base_model_version": "SD 3.5"}
        found = base_of_file("x", lora("sd3", variant="3.5-large"), said)
        assert found.family.title == "SD 3.5 Large"
        with pytest.raises(HubError, match="Medium or Large"):
            base_of_file("x", lora("sd3"), said)
        v = lora("sd2", prediction_type="v_prediction")
        assert base_of_file("x", v, {}).family.title == "SD 2.1 768"

    def test_layers_do_not_turn_a_model_that_edits_into_another(self):
        for name, architecture in (("qwen_image_edit", "qwen-image"), ("flux.1_kontext", "flux1")):
            with pytest.raises(HubError, match="edits images"):
                base_of_file(
                    "x", lora(architecture, variant="dev"), {"ss_base_model_version": name}
                )

    @pytest.mark.parametrize("architecture", ["wan", "hunyuan-video", "ltx", "sdxl-refiner"])
    def test_what_makes_no_images_from_texts_is_refused(self, architecture):
        with pytest.raises(HubError, match=r"videos|image to begin with"):
            base_of_file("x", lora(architecture), {})

    def test_a_claim_that_the_layers_contradict_is_refused(self):
        with pytest.raises(HubError, match=r"says that it was made for SDXL 1\.0.*FLUX") as caught:
            base_of_file("x", lora("flux1"), {"ss_base_model_version": "sdxl_base_v1-0"})
        assert "--base REPO" in caught.value.hint

    def test_nothing_at_all_is_refused_with_what_the_file_is(self):
        with pytest.raises(HubError, match=r"^x is a LoRA; its card names no base model"):
            base_of_file("x", lora(), {})


class TestFit:
    def test_another_kind_of_network_is_refused_in_words(self):
        with pytest.raises(HubError) as caught:
            require_made_for("x", lora("sdxl"), {}, "its base model hf:a/b", {"sd1"})
        assert caught.value.message == (
            "x was made for SDXL, while its base model hf:a/b is Stable Diffusion 1.x"
        )
        assert "--base REPO" in caught.value.hint

    def test_where_layers_do_not_tell_the_metadata_do(self):
        said = {"ss_base_model_version": "sdxl_base_v1-0"}
        with pytest.raises(HubError, match="ss_base_model_version in its metadata is sdxl_base"):
            require_made_for("x", lora(), said, "its base", {"sd1", "sd2"})
        require_made_for("x", lora("sd1"), said, "its base", {"sd1", "sd2"})

    def test_what_is_not_known_is_not_refused(self):
        require_made_for("x", lora(), {}, "its base", {"sd1"})
        require_made_for("x", lora("sdxl"), {}, "its base", ())

    @pytest.mark.parametrize(
        ("made", "base"),
        [("sdxl", "kolors"), ("flux1", "chroma"), ("flux1", "qwen-image"), ("lumina2", "z-image")],
    )
    def test_adapters_that_look_alike_are_left_to_the_loader(self, made, base):
        require_made_for("x", lora(made), {}, "its base", {base})

    def test_the_pipeline_tells_what_a_base_runs(self):
        index = {"_class_name": "StableDiffusionPipeline"}
        assert pipeline_architectures(index) == {"sd1", "sd2"}
        assert pipeline_architectures(index, {"cross_attention_dim": 768}) == {"sd1"}
        assert pipeline_architectures(index, {"cross_attention_dim": 1024}) == {"sd2"}
        assert pipeline_architectures(index, {"cross_attention_dim": [768]}) == {"sd1", "sd2"}
        assert pipeline_architectures({"_class_name": "FluxPipeline"}) == {"flux1"}
        assert pipeline_architectures({"_class_name": ["a", "b"]}) == frozenset()
        assert pipeline_architectures({}) == frozenset()


def test_a_family_without_a_sister_stays_what_it_is():
    family = replace(families()[0], v_prediction=None)
    assert family.with_prediction("v_prediction") is family
