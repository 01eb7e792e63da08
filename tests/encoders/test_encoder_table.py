"""Names of encoders, and what may be imported to know them."""

from __future__ import annotations

import subprocess
import sys

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.encoders import DEFAULT_ENCODER, KNOWN_ENCODERS, EncoderName
from gmi_registry.errors import InputError

PART = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", fullmatch=True)


@given(PART, PART)
def test_parse_and_print_are_inverse(name: str, pretrained: str) -> None:
    encoder = EncoderName(name, pretrained)
    assert EncoderName.parse(str(encoder)) == encoder


@given(st.text(max_size=30))
def test_other_text_is_refused_or_printed_back(text: str) -> None:
    try:
        encoder: EncoderName | None = EncoderName.parse(text)
    except InputError:
        encoder = None
    assert encoder is None or str(encoder) == text


@pytest.mark.parametrize(
    "text", ["", "ViT-L-14", "/openai", "ViT-L-14/", "a/b/c", "a b/c", "../x", "a/..", "a/b\n"]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InputError, match="does not name an encoder") as caught:
        EncoderName.parse(text)
    assert str(DEFAULT_ENCODER) in str(caught.value.hint)


@pytest.mark.parametrize("known", KNOWN_ENCODERS, ids=lambda known: str(known.name))
def test_the_table_agrees_with_open_clip(known: object) -> None:
    (row,) = [row for row in KNOWN_ENCODERS if row is known]
    entry = open_clip.get_pretrained_cfg(*row.name)
    assert entry["hf_hub"].endswith("/")  # a repository with open_clip's own file names
    assert open_clip.get_model_config(row.name.name)["embed_dim"] == row.dim


def test_the_default_is_the_first_row() -> None:
    assert KNOWN_ENCODERS[0].name == DEFAULT_ENCODER


def test_the_package_imports_no_torch() -> None:
    code = (
        "import sys, gmi_registry.encoders, gmi_registry.interrogators, gmi_registry.search.query\n"
        "heavy = {'torch', 'open_clip', 'transformers', 'clip_interrogator'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
