"""Each style is a deterministic drawing of its own."""

import numpy as np
import pytest

from zoo.icons import IconSet
from zoo.styles import PICTURE_SIZE, SOURCES, STYLES, Style

BODY = '<circle cx="8" cy="8" r="6" fill="#c33"/><path d="M2 2h5v5z" fill="#236"/>'
ICONS = IconSet(
    {"icons": {"disc": {"body": BODY}}, "aliases": {"dot": {"parent": "disc"}}, "width": 16}
)


def test_sixteen_styles_with_names_and_tags_of_their_own() -> None:
    assert len({style.name for style in STYLES}) == 16
    assert all(style.source in SOURCES and len(style.tags) >= 3 for style in STYLES)
    words = [word for style in STYLES for word in style.words]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_a_style_draws_the_same_picture_twice(style: Style) -> None:
    icon = ICONS.render("disc")
    first, second = style.draw(icon), style.draw(icon)
    assert first.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)
    assert first.dtype == np.uint8
    assert first.std() > 5, "the picture is not blank"
    np.testing.assert_array_equal(first, second)


def test_filtered_styles_differ_from_their_source() -> None:
    icon = ICONS.render("disc")
    drawn = {style.draw(icon).tobytes() for style in STYLES}
    assert len(drawn) == 11, "six plain styles share one drawing, ten filters make their own"


def test_an_alias_takes_its_parents_drawing() -> None:
    assert ICONS.names() == {"disc", "dot"}
    np.testing.assert_array_equal(ICONS.render("dot"), ICONS.render("disc"))
