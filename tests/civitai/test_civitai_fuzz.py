"""Whatever a hub says and whatever a person types, the only errors are those meant for people."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gmi_registry.errors import GmiError
from gmi_registry.hubs.civitai import CivitaiClient, find_civitai
from gmi_registry.hubs.civitai.documents import Page, WireModel, card_of
from gmi_registry.hubs.civitai.hub import list_among
from gmi_registry.hubs.civitai.models import named_model
from gmi_registry.spec.reference import unprintable
from tests.support.civitai_loopback import Fault
from tests.support.civitai_specs import style

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=8,
)
SHOWN = style(1, 11, 12, tags=("anime",)).shown("https://civitai.example")


def places(value, path=()):
    """The paths of all parts of a document."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


PLACES = [path for path in places(SHOWN) if path]


def spoilt(path, value):
    document = copy.deepcopy(SHOWN)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


@given(st.sampled_from(PLACES), VALUES)
@settings(max_examples=400, deadline=None)
def test_a_spoilt_model_is_used_as_far_as_it_goes_or_refused(path, value):
    try:
        model = WireModel.model_validate(spoilt(path, value))
    except ValidationError:
        assert len(path) == 1
        assert path[0] in ("id", "name", "type")
        return
    for version in model.model_versions:
        card = card_of(model, version)
        texts = (card.title, *card.tags, *card.trigger_words, card.licence or "x")
        assert all(0 < len(text) <= 200 and not unprintable(text) for text in texts)
        assert 0 <= (card.downloads or 0) < 2**53
        for file in version.files:
            assert file.path == f"{file.id}.safetensors"
            assert 0 < file.id < 10**15
            assert 0 <= file.size < 10**15


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_a_page_of_anything_is_a_page_or_refused(value):
    try:
        page = Page.model_validate({"items": [value], "metadata": {"nextCursor": value}})
    except ValidationError:
        pytest.fail("one useless item spoils a page")
    assert page.cursor is None or (page.cursor.isprintable() and len(page.cursor) <= 200)


@given(st.sampled_from(PLACES), VALUES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_listing_with_a_spoilt_model_still_has_the_others(civitai, path, value):
    other = style(2, 21, tags=("anime",)).shown(civitai.endpoint)
    content = json.dumps({"items": [spoilt(path, value), other], "metadata": {}}).encode()
    civitai.inject(Fault("hostile", content=content))
    client = CivitaiClient(endpoint=civitai.endpoint)
    found = list_among(client, ["1", "2", "3"]).versions
    client.close()
    assert "civitai:2@21" in [str(item.ref) for item in found]


@given(
    st.text(max_size=60)
    | st.from_regex(r"(civitai:|urn:air:|https://(www\.)?civitai\.com/models/)[!-~]{0,30}")
)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_typed_names_a_model_or_is_refused(text):
    client = CivitaiClient(offline=True)

    def look_up():
        named = named_model(text, client)
        assert named is None or named.hub == "civitai"
        find_civitai(text, client)

    with pytest.raises(GmiError) as caught:
        look_up()
    assert caught.value.hint
    assert "\n" not in caught.value.message
