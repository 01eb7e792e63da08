"""Embeddings: the same however the pictures arrive, and whoever makes the pixels."""

import threading

import numpy as np
import pytest
from PIL import Image

from gmi_registry.generation import Encoding
from tests.support.grey_encoder import GreyEncoder


def pictures(count):
    return [Image.new("RGB", (8, 8), (5 * n, 255 - 5 * n, 7)) for n in range(count)]


class Counting(GreyEncoder):
    """Marks each row with the size of the batch it was in, as rounding would."""

    def __init__(self):
        self.sizes = []

    def encode_images(self, images):
        self.sizes.append(len(images))
        return super().encode_images(images) + len(images)


class Apart(Counting):
    """Makes pixels apart, and says on which threads what was done."""

    def __init__(self):
        super().__init__()
        self.threads = {"pixels": set(), "tower": set()}

    def pixels(self, images):
        self.threads["pixels"].add(threading.get_ident())
        return np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) for image in images])

    def encode_pixels(self, pixels):
        self.threads["tower"].add(threading.get_ident())
        rows = pixels.astype(np.uint8).transpose(0, 2, 3, 1)
        return self.encode_images([Image.fromarray(row) for row in rows])


@pytest.mark.parametrize("kind", [Counting, Apart])
@pytest.mark.parametrize("at_once", [1, 4, 7, 40, 42])
def test_groups_do_not_depend_on_how_pictures_arrive(kind, at_once):
    encoder, told = kind(), []
    encoding = Encoding(encoder, 42, progress=lambda *counts: told.append(counts))
    for start in range(0, 42, at_once):
        encoding.prepare(pictures(42)[start : start + at_once])
        encoding.advance()
    rows = encoding.rows()
    assert encoder.sizes == [16, 16, 10]
    assert told == [(0, 42), (16, 42), (32, 42), (42, 42)]
    expected = GreyEncoder().encode_images(pictures(42))
    expected += np.repeat([16, 10], [32, 10])[:, None].astype(np.float32)
    assert np.array_equal(rows, expected)


def test_the_tower_waits_for_whoever_asks():
    encoder = Apart()
    encoding = Encoding(encoder, 20)
    other = threading.Thread(target=encoding.prepare, args=(pictures(20),))
    other.start()
    here, there = threading.get_ident(), other.ident
    other.join()
    assert encoder.threads == {"pixels": {there}, "tower": set()}
    encoding.rows()
    assert encoder.threads == {"pixels": {there}, "tower": {here}}


def test_missing_pictures_are_not_passed_over():
    encoding = Encoding(GreyEncoder(), 3)
    encoding.prepare(pictures(2))
    with pytest.raises(ValueError, match="2 pictures were prepared, not 3"):
        encoding.rows()
