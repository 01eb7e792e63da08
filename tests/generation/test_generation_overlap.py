"""What is done while pictures are drawn leaves the same bytes, and fails without a loss."""

import gc
import shutil
import threading
import time
import weakref

import numpy as np
import pytest
from PIL import Image

from gmi_registry.errors import GenerationError
from gmi_registry.generation import (
    BatchCache,
    Encoding,
    RecipeOverrides,
    build_spec,
    contact_sheet,
    default_recipe,
    generate,
    images_kept,
)
from gmi_registry.spec import ModelRef, PromptSet, encode_spec
from tests.support.grey_encoder import GreyEncoder

BASE = ModelRef("local", "base")
FEW = PromptSet("few", 1, tuple(f"thing number {n}" for n in range(11)))
OWN = PromptSet("own", 1, ("a purple cow", "a quiet street"))
QUICK = RecipeOverrides(steps=1, batch_size=4, seeds=(0, 1))
IMAGES = 26


@pytest.fixture
def recipe(pipeline, base):
    return default_recipe(pipeline, base, QUICK)


@pytest.fixture
def hub(base_hub, default_prompts):
    default_prompts(FEW)
    return base_hub


@pytest.fixture
def run(hub, publishing, tmp_path):
    published = publishing(hub, prompts=OWN, overrides=QUICK, output=tmp_path / "out")
    return lambda encoder, **options: published(encoder=encoder, **options)


def one_after_the_other(hub, pipeline, recipe, encoder, folder):
    """Manifest, tensors and preview, with nothing begun before all pictures lie on disk."""
    model = hub.fetch_model(BASE)
    cache = BatchCache(folder, model, recipe)
    blocks = [generate(pipeline, part.prompts, recipe, cache=cache) for part in (FEW, OWN)]
    encoding = Encoding(encoder, IMAGES)
    for block in blocks:
        encoding.prepare(block)
    spec = build_spec(model, encoding.rows(), encoder, (FEW, OWN), recipe)
    return (*encode_spec(spec), contact_sheet([block[::2] for block in blocks]))


def files_of(folder):
    names = ("spec.json", "spec.tensors", "preview.webp")
    return tuple((folder / "gmi" / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def clip():
    """A real image tower, whose pixels are made apart."""
    import open_clip
    import torch

    from gmi_registry.encoders.open_clip import OpenClipEncoder

    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        embed_dim=12,
        vision_cfg={"layers": 1, "width": 64, "patch_size": 8, "image_size": 16},
        text_cfg={"layers": 1, "width": 64, "heads": 1},
    )
    model.visual.preprocess_cfg = dict(open_clip.transform.PreprocessCfg(size=16).__dict__)
    ref = GreyEncoder.ref.model_copy(update={"text_dim": 12})
    return OpenClipEncoder(ref, model, open_clip.get_tokenizer("ViT-B-32"))


@pytest.mark.parametrize("real", [False, True])
def test_overlapped_and_sequential_give_the_same_files(
    run, hub, pipeline, recipe, tmp_path, clip, real
):
    encoder = clip if real else GreyEncoder()
    run(encoder)
    expected = one_after_the_other(hub, pipeline, recipe, encoder, tmp_path / "other")
    assert files_of(tmp_path / "out") == expected


class Apart(GreyEncoder):
    """Its pixels are the pictures, and come late."""

    def pixels(self, images):
        time.sleep(0.05)
        return np.stack([np.asarray(image) for image in images]).astype(np.float32)

    def encode_pixels(self, pixels):
        return self.encode_images([Image.fromarray(row) for row in pixels.astype(np.uint8)])


def test_a_slow_follower_changes_nothing(run, hub, pipeline, recipe, tmp_path):
    run(Apart())
    expected = one_after_the_other(hub, pipeline, recipe, GreyEncoder(), tmp_path / "other")
    assert files_of(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("kind", "method"),
    [(Apart, "pixels"), (Apart, "encode_pixels"), (GreyEncoder, "encode_images")],
)
def test_an_encoder_that_fails_stops_the_drawing_and_keeps_it(
    run, tmp_path, monkeypatch, kind, method
):
    def fail(encoder, images):
        raise RuntimeError("out of memory")

    told = []
    with monkeypatch.context() as patched:
        patched.setattr(kind, method, fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(kind(), progress=lambda *step: told.append(step))
    assert not (tmp_path / "out").exists()
    drawn = max(done for stage, done, _ in told if stage == "generate")
    assert 0 < drawn < IMAGES
    assert run(kind(), dry_run=True).plan.images_kept == drawn
    assert run(kind()).images == IMAGES - drawn
    resumed = files_of(tmp_path / "out")
    run(kind(), output=tmp_path / "whole", work=tmp_path / "again")
    assert files_of(tmp_path / "whole") == resumed


class Drawing:
    """The pipeline, which fails at one of its calls."""

    def __init__(self, pipeline, number, error):
        self._pipeline, self._left, self._error = pipeline, number, error
        self.__call__ = pipeline.__call__

    def __call__(self, **settings):
        self._left -= 1
        if self._left == 0:
            raise self._error
        return self._pipeline(**settings)


class Waiting:
    """A consumer that is not done before the drawing has failed."""

    def __init__(self):
        self.taken = 0

    def prepare(self, images):
        time.sleep(0.2)
        self.taken += len(images)

    def advance(self):
        pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [(RuntimeError("no memory"), GenerationError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_drawing_that_fails_while_the_follower_works_keeps_what_was_drawn(
    pipeline, base, recipe, tmp_path, error, kind
):
    cache = BatchCache(tmp_path, base, recipe)
    consumer = Waiting()
    with pytest.raises(kind):
        generate(Drawing(pipeline, 3, error), FEW.prompts, recipe, cache=cache, consumer=consumer)
    assert consumer.taken == images_kept(cache, FEW.prompts, recipe) == 8
    assert not [it for it in threading.enumerate() if it.name.startswith("keep-images")]


def test_kept_pictures_are_handed_on_in_their_order(pipeline, base, recipe, tmp_path):
    class Taking(Waiting):
        def __init__(self):
            self.images = []

        def prepare(self, images):
            self.images += images

    cache = BatchCache(tmp_path, base, recipe)
    whole, resumed = Taking(), Taking()
    images = generate(pipeline, FEW.prompts, recipe, cache=cache, consumer=whole)
    shutil.rmtree(images.paths[5].parent)
    generate(pipeline, FEW.prompts, recipe, cache=cache, consumer=resumed)
    assert len(whole.images) == 22
    for one, other, stored in zip(whole.images, resumed.images, images, strict=True):
        assert one.tobytes() == other.tobytes() == stored.tobytes()


def test_what_is_in_memory_does_not_grow_with_the_pictures(pipeline, base, recipe, tmp_path):
    class Watching(Waiting):
        def __init__(self):
            self.seen, self.most = [], 0

        def prepare(self, images):
            self.seen += map(weakref.ref, images)
            gc.collect()
            self.most = max(self.most, sum(image() is not None for image in self.seen))

    consumer = Watching()
    cache = BatchCache(tmp_path, base, recipe)
    generate(pipeline, FEW.prompts, recipe, cache=cache, consumer=consumer)
    assert 0 < consumer.most <= 2 * recipe.batch_size
