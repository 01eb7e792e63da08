"""Whatever a publication can be refused for is refused first: no image, and no byte of weights."""

from __future__ import annotations

import json
import os
from importlib import import_module

import numpy as np
import pytest
from huggingface_hub import HfApi
from safetensors.numpy import save

from gmi_registry import generation, search
from gmi_registry.errors import AuthError, GmiError, HubError, InputError, OfflineError
from gmi_registry.generation import RecipeOverrides
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.local import LocalHub, _write_hub_file
from gmi_registry.hubs.registry import Registry
from gmi_registry.spec import ModelRef
from tests.support.hub_builder import ProjectionEncoder
from tests.support.loopback import User, fixtures
from tests.support.publishing import publish

hf_hub = fixtures.hf_hub
publish_module = import_module("gmi_registry.publish_plan")

LORA = "pytorch_lora_weights.safetensors"
WEIGHTS = save({"unet.attn.to_q.lora_A.weight": np.ones((2, 4), np.float32)})
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}
BASE = {
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS,
    "scheduler/scheduler_config.json": b"{}",
}
STYLE, REGISTRY = "ada/style", "keeper/specs"
OWNER, GUEST = "hf_ada", "hf_guest"


def card(front="license: mit\ntags: [ink]\nbase_model: ada/base\n"):
    return f"---\n{front}---\n# Style\n".encode()


def index(name="StableDiffusionPipeline", **more):
    return json.dumps(INDEX | {"_class_name": name} | more).encode()


class World:
    """A hub with a LoRA and its base; publications of it, which may come to nothing."""

    def __init__(self, hub, room):
        self.hub, self.room = hub, room
        for name, token in (("ada", OWNER), ("guest", GUEST), ("keeper", "hf_keeper")):
            hub.add_user(User(name, token))
        hub.add_user(User("ada", "hf_reader", role="read"))
        hub.add_repo("ada/base", {"model_index.json": index(), **BASE})
        hub.add_repo(STYLE, {"README.md": card(), LORA: WEIGHTS})
        hub.add_repo(REGISTRY, {"README.md": b"# Specifications\n"}, repo_type="dataset")

    def publish(self, *, revision=None, token=OWNER, model=STYLE, offline=None, **options):
        api = HuggingFaceHub(token=token, cache_dir=self.room / "cache", offline=offline)
        wanted = {"work": self.room / "work", "encoder": ProjectionEncoder(), "device": "cpu"}
        with api as opened:
            return publish(ModelRef("hf", model, revision), opened, **(wanted | options))

    def registry(self, token=GUEST):
        return Registry(REGISTRY, token=token, cache_dir=self.room / "cache")

    @property
    def weights_asked_for(self):
        """Whole files; of a header the beginning alone is asked for, which is answered by 206."""
        asked = (it for it in self.hub.requests if it.method == "GET" and it.status == 200)
        return [it.path for it in asked if "safetens" in it.path]


@pytest.fixture
def world(hf_hub, tmp_path, monkeypatch):
    def never(*arguments, **settings):
        pytest.fail("a model was loaded, or an image generated")

    for name in ("generate", "load_pipeline"):
        monkeypatch.setattr(generation, name, never)
    monkeypatch.setattr(publish_module, "load_encoder", never)
    return World(hf_hub, tmp_path)


def _tag(world):
    HfApi(world.hub.endpoint, token=OWNER).create_tag(STYLE, tag="v1")


def _tag_of_other_weights(world):
    _tag(world)
    world.hub.commit(STYLE, {LORA: WEIGHTS[::-1]})


def _like_a_commit(world):
    refs = world.hub.repo(STYLE).refs
    refs["refs/heads/" + "a" * 40] = refs["refs/heads/main"]


def _branch_and_tag(world):
    _tag(world)
    HfApi(world.hub.endpoint, token=OWNER).create_branch(STYLE, branch="v1")


def _card(front):
    return lambda world: world.hub.commit(STYLE, {"README.md": card(front)})


def _switched_off(world):
    world.hub.repo(STYLE).discussions_disabled = True


def _registry_off(world):
    world.hub.repo(REGISTRY, "dataset").discussions_disabled = True


def _base(**files):
    return lambda world: world.hub.commit("ada/base", files)


def _blocked(world):
    world.room.joinpath("file").write_text("in the way")
    world.room.joinpath("out").mkdir()
    world.room.joinpath("out/gmi").write_text("in the way")


def _pipe(world):
    world.room.joinpath("out/gmi/notes").mkdir(parents=True)
    os.mkfifo(world.room / "out/gmi/notes/pipe")


def _dataset(world):
    world.hub.add_repo("ada/data", {"README.md": b"# Data\n"}, repo_type="dataset")


def _disabled(world):
    world.hub.repo(STYLE).disabled = True


def nothing(world):
    pass


def _other(**settings):
    return {"overrides": RecipeOverrides(**settings)}


NAN, INF = float("nan"), float("inf")

REFUSALS = {
    # what this machine and the words of the caller tell
    "steps 0": (nothing, _other(steps=0), InputError, "steps 0 .as requested"),
    "steps 10**9": (nothing, _other(steps=10**9), InputError, "steps 1000000000"),
    "guidance nan": (nothing, _other(guidance_scale=NAN), InputError, "guidance scale nan"),
    "guidance inf": (nothing, _other(guidance_scale=INF), InputError, "guidance scale inf"),
    "guidance -1": (nothing, _other(guidance_scale=-1.0), InputError, "guidance scale -1"),
    "width 0": (nothing, _other(width=0), InputError, "width 0"),
    "height -8": (nothing, _other(height=-8), InputError, "height -8"),
    "width 10**6": (nothing, _other(width=10**6), InputError, "width 1000000"),
    "no seeds": (nothing, _other(seeds=()), InputError, "seeds"),
    "seed -1": (nothing, _other(seeds=(-1,)), InputError, "seeds -1"),
    "seed 2**60": (nothing, _other(seeds=(2**60,)), InputError, "seeds"),
    "seed twice": (nothing, _other(seeds=(1, 1)), InputError, "appears twice"),
    "many seeds": (nothing, _other(seeds=tuple(range(400))), InputError, "22,000 images, and"),
    "batch 0": (nothing, _other(batch_size=0), InputError, "batch size 0"),
    "LoRA scale nan": (nothing, _other(lora_scale=NAN), InputError, "lora scale nan"),
    "dtype": (nothing, _other(dtype="float8"), InputError, "dtype float8"),
    "template": (nothing, _other(prompt_template="x"), InputError, "prompt_template must hold"),
    "cuda": (nothing, {"device": "cuda:99"}, InputError, "no device cuda:99 here"),
    "mps": (nothing, {"device": "mps"}, InputError, "no device mps here"),
    "meta": (nothing, {"device": "meta"}, InputError, "it computes nothing"),
    "cpu:7": (nothing, {"device": "cpu:7"}, InputError, "there is one processor"),
    "no device": (nothing, {"device": "nonsense"}, InputError, "not the name of a device"),
    "output": (_blocked, {"output": "file"}, InputError, "is not a folder"),
    "output/gmi": (_blocked, {"output": "out"}, InputError, "gmi is not a folder"),
    "output/gmi/pipe": (_pipe, {"output": "out"}, InputError, "pipe cannot be kept beside"),
    "output's name": (nothing, {"output": "x" * 300}, InputError, "cannot be a folder: File name"),
    "NUL": (nothing, {"output": "a\0b"}, InputError, "cannot be a folder: "),
    "work": (_blocked, {"work": "file"}, InputError, "is not a folder"),
    # what the hub tells of the account and of the place
    "offline": (nothing, {"offline": True}, OfflineError, "publishing needs the network"),
    "no token": (nothing, {"token": False}, AuthError, "needs a token"),
    "reads alone": (nothing, {"token": "hf_reader"}, AuthError, "can only read"),
    "no model": (nothing, {"model": "ada/none"}, HubError, "holds no model"),
    "a dataset": (_dataset, {"model": "ada/data"}, HubError, "is a dataset, and no model"),
    "disabled": (_disabled, {}, HubError, "was disabled"),
    "a tag": (_tag, {"revision": "v1"}, HubError, "v1 is a tag, and nothing can be committed"),
    "tag, weights": (
        _tag_of_other_weights,
        {"revision": "v1", "create_pr": True},
        HubError,
        f"would go to main, where {LORA} is another file",
    ),
    "like a commit": (_like_a_commit, {"revision": "a" * 40}, HubError, "looks like a commit"),
    "branch and tag": (_branch_and_tag, {"revision": "v1"}, HubError, "a branch and a tag"),
    "no revision": (nothing, {"revision": "v9"}, HubError, "no branch, tag or commit v9"),
    "pull requests": (_switched_off, {"token": GUEST}, HubError, "takes no pull requests"),
    "--create-pr": (_switched_off, {"create_pr": True}, HubError, "takes no pull requests"),
    "registry off": (_registry_off, {"store": GUEST}, HubError, "takes no pull requests"),
    "registry, reader": (nothing, {"store": "hf_reader"}, AuthError, "can only read"),
    "card, twice": (
        _card("license: mit\nlicense: mit\nbase_model: ada/base\n"),
        {},
        HubError,
        r"README.md line 3: duplicated mapping key",
    ),
    "card, no YAML": (_card("tags: [a\n"), {}, HubError, "README.md line"),
    # what the configuration of the model tells
    "no base": (_card("base_model: ada/gone\n"), {}, HubError, "ada/gone, is not here"),
    "no base named": (_card("license: mit\n"), {}, GmiError, "names no base model"),
    "code": (
        _base(**{"model_index.json": index(unet=["own_code", "Net"])}),
        {},
        GmiError,
        "needs the code",
    ),
    "image to image": (
        _base(**{"model_index.json": index("StableDiffusionImg2ImgPipeline")}),
        {},
        GmiError,
        "needs an image to begin with",
    ),
    "no prompt": (
        _base(**{"model_index.json": index("DDPMPipeline")}),
        {},
        GmiError,
        "takes no prompt",
    ),
    "the card's steps": (
        _card("base_model: ada/base\ngmi: {steps: 5000}\n"),
        {},
        InputError,
        "steps 5000 .the model card of hf:ada/style",
    ),
    "the card's template": (
        _card("base_model: ada/base\ngmi: {prompt_template: ink}\n"),
        {},
        InputError,
        "prompt_template must hold",
    ),
    "LoRA scale of a base": (
        nothing,
        {"model": "ada/base", **_other(lora_scale=0.5)},
        InputError,
        "is not a LoRA",
    ),
    "pickles": (
        _base(
            **{
                "unet/diffusion_pytorch_model.safetensors": None,
                "unet/diffusion_pytorch_model.bin": b"pickle",
            }
        ),
        {},
        HubError,
        "pickle",
    ),
    "prompt set": (
        _card("base_model: ada/base\ngmi: {prompt_set: none-v1}\n"),
        {},
        InputError,
        "no prompt set named",
    ),
    "encoder's name": (
        _card("base_model: ada/base\ngmi: {encoder: none}\n"),
        {"encoder": None},
        InputError,
        "does not name an encoder",
    ),
    "encoder": (
        _card("base_model: ada/base\ngmi: {encoder: ViT-L-14/none}\n"),
        {"encoder": None},
        InputError,
        "open_clip knows no weights 'none'",
    ),
    "encoder's weights": (nothing, {"encoder": None}, HubError, "could not be fetched|holds no"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_refused_before_an_image_and_before_any_weights(world, name):
    prepare, options, error, message = REFUSALS[name]
    prepare(world)
    options = dict(options)
    for place in ("output", "work"):
        if place in options:
            options[place] = world.room / options[place]
    if "store" in options:
        options["store"] = world.registry(options["store"])
    for dry_run in (True, False):
        with pytest.raises(error, match=message) as caught:
            world.publish(dry_run=dry_run, **options)
        assert caught.value.hint
        assert "\n" not in caught.value.message
    assert world.weights_asked_for == []


def test_what_could_not_be_kept_in_a_folder_is_found_beforehand(tmp_path):
    folder = tmp_path / "models/ink"
    (folder / "gmi").mkdir(parents=True)
    _write_hub_file(tmp_path)
    hub = LocalHub(tmp_path, cache_dir=tmp_path / "cache")
    (folder / "gmi/link").symlink_to("nowhere")
    hub.check_writable(ModelRef("local", "ink"))
    os.mkfifo(folder / "gmi/pipe")
    with pytest.raises(HubError, match="pipe cannot be kept beside the specification"):
        hub.check_writable(ModelRef("local", "ink"))


def test_a_tag_can_be_proposed_to_main_where_the_weights_are_the_same(world):
    _tag(world)
    with HuggingFaceHub(token=OWNER, cache_dir=world.room / "cache") as hub:
        where = hub.check_writable(ModelRef("hf", STYLE, "v1"), create_pr=True)
    assert (where.way, where.branch) == ("pull request", "main")


@pytest.mark.parametrize("name", ["deadbee", "feature/x", "refs/heads/feature/x"])
def test_a_branch_is_a_branch_whatever_it_is_called(world, name):
    bare = name.removeprefix("refs/heads/")
    HfApi(world.hub.endpoint, token=OWNER).create_branch(STYLE, branch=bare)
    with HuggingFaceHub(token=OWNER, cache_dir=world.room / "cache") as hub:
        where = hub.check_writable(ModelRef("hf", STYLE, name))
        sha = where.weights and world.hub.history(STYLE)[0].oid
        assert hub.check_writable(ModelRef("hf", STYLE, sha)).branch == "main"
    assert (where.way, where.branch) == ("commit", bare)


def test_a_right_that_the_hub_denies_means_a_proposal(world):
    user = User("erin", "hf_erin")
    object.__setattr__(user, "whoami", User("ada", "hf_erin").whoami)
    world.hub.add_user(user)
    with HuggingFaceHub(token="hf_erin", cache_dir=world.room / "cache") as hub:
        assert hub.check_writable(ModelRef("hf", STYLE)).way == "pull request"


def test_a_disk_without_room_is_found_before_the_first_download(world, monkeypatch):
    import shutil

    usage = shutil.disk_usage(world.room)._replace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(HubError, match="10 are free"):
        world.publish()
    assert world.weights_asked_for == []


def test_what_a_folder_of_models_can_refuse(world, tmp_path):
    hub = LocalHub.create(tmp_path / "hub", cache_dir=tmp_path / "digests")
    folder = hub.root / "models" / "style"
    folder.mkdir()
    (folder / LORA).write_bytes(WEIGHTS)
    (folder / "README.md").write_bytes(card("base_model: gone\n"))
    ref = ModelRef("local", "style")
    with pytest.raises(GmiError, match="its base model gone is not here"):
        publish(ref, hub, work=tmp_path / "work", device="cpu")
    (folder / "gmi").write_text("in the way")
    with pytest.raises(HubError, match="gmi is not a folder"):
        publish(ref, hub, work=tmp_path / "work", device="cpu")
    (folder / "gmi").unlink()
    (folder / "README.md").write_bytes(card("base_model: base\n"))
    base = hub.root / "models" / "base"
    for path, content in {"model_index.json": index(), **BASE}.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(content)
    with pytest.raises(InputError, match="the model's own folder"):
        publish(ref, hub, work=tmp_path / "work", device="cpu", output=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "no device cuda:99"),
        ({"top": 0}, "the first 0 models are none"),
        ({"workers": 0}, "0 workers read nothing"),
        ({"interrogator": "nobody"}, "no interrogator is called"),
        ({"interrogator": "caption", "offline": True}, "captioner .* is not in the cache"),
        ({"score": "none"}, "none"),
    ],
)
def test_a_search_is_refused_before_the_hub_is_asked(world, tmp_path, options, message):
    from PIL import Image

    picture = Image.new("RGB", (8, 8))
    with (
        HuggingFaceHub(token=OWNER, cache_dir=tmp_path / "cache") as hub,
        pytest.raises(GmiError, match=message),
    ):
        search([picture], hub, cache_dir=tmp_path / "cache", **options)
    assert world.hub.requests == []


def test_a_card_that_the_section_makes_too_large_is_refused(world):
    front = card("license: mit\nbase_model: ada/base\n")
    world.hub.commit(STYLE, {"README.md": front + b"x" * (1024 * 1024 - len(front) - 600)})
    with pytest.raises(HubError, match="with what is added"):
        world.publish()


def test_without_webp_no_image_is_generated(world, monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    with pytest.raises(InputError, match="built without WebP"):
        world.publish()
    assert world.hub.requests == []


def test_without_torch_another_device_is_refused_and_not_passed_over(monkeypatch):
    from gmi_registry import device

    monkeypatch.setattr(device, "find_spec", lambda name: None)
    assert device.require_device(None) == device.require_device("cpu") == "cpu"
    with pytest.raises(InputError, match="without torch everything is computed on the processor"):
        device.require_device("cuda")
