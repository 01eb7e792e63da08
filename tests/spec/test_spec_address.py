"""What people paste: everything that names a model names that one, and nothing else does."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.errors import InputError
from gmi_registry.spec import ModelRef
from gmi_registry.spec.address import (
    _OTHER_KINDS,
    _OTHER_PAGES,
    dataset_name,
    read_address,
    repository_name,
)

SHA, WEIGHTS = "0123456789abcdef0123456789abcdef01234567", "ab" * 32
MIRROR = ("hf", "https://mirror.example/hub")
LOOPBACK = [("hf", "http://127.0.0.1:8001"), ("civitai", "http://127.0.0.1:8002")]

word = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,12}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda text: "--" not in text and ".." not in text and not text.endswith(".git")
)
owner = word.filter(
    lambda text: "." not in text and text.lower() not in {*_OTHER_KINDS, *_OTHER_PAGES}
)
number = st.integers(1, 10**9).map(str)
file = st.from_regex(
    r"([a-z][a-z0-9 _-]{0,8}/){0,3}[A-Za-z0-9][A-Za-z0-9 _.é+-]{0,20}\.(safetensors|gguf)",
    fullmatch=True,
).filter(lambda text: not text.startswith("gmi/"))
revision = st.none() | st.from_regex(
    r"[0-9a-f]{40}|[0-9a-f]{64}|refs/pr/[1-9][0-9]{0,3}|v[1-9]\.[0-9]|[b-l][a-z]{3,8}",
    fullmatch=True,
)
HF = st.builds(
    lambda who, name, rev, path: ModelRef("hf", f"{who}/{name}", rev, path),
    owner, word, revision, st.none() | file,
)  # fmt: skip
CIVITAI = st.builds(ModelRef, st.just("civitai"), number, st.none() | number)
LOCAL = st.builds(
    ModelRef,
    st.just("local"),
    word,
    st.none() | st.from_regex(r"[0-9a-f]{8,64}", fullmatch=True),
    st.none() | file,
)


def hf_pages(ref):
    """Paths of pages at Hugging Face that show just this."""
    at = quote(ref.revision or "main", safe="")
    if ref.file is not None:
        name = quote(ref.file)
        yield from (f"{ref.id}/{view}/{at}/{name}" for view in ("blob", "resolve", "raw"))
        yield f"{ref.id}/resolve/{at}/{name}?download=true"
        return
    yield from (f"{ref.id}/tree/{at}", f"{ref.id}/blob/{at}/README.md", f"{ref.id}/tree/{at}/gmi")
    yield f"{ref.id}/blob/{at}/gmi/spec.json"
    yield f"api/models/{ref.id}/revision/{at}"
    if ref.revision is None:
        yield from (ref.id, f"{ref.id}?library=diffusers", f"{ref.id}.git", f"{ref.id}/discussions")
        yield f"api/models/{ref.id}"
    elif len(ref.revision) == 40:
        yield f"{ref.id}/commit/{ref.revision}"
    elif ref.revision.startswith("refs/pr/"):
        yield f"{ref.id}/discussions/{ref.revision.rpartition('/')[2]}"
        yield f"{ref.id}/discussions/{ref.revision.rpartition('/')[2]}/files#d2h-1"
        yield f"{ref.id}/tree/{ref.revision}"


def civitai_pages(ref):
    version = "" if ref.revision is None else f"?modelVersionId={ref.revision}"
    for path in (f"models/{ref.id}", f"models/{ref.id}/a-slug", f"en/models/{ref.id}/%E7%94%BB"):
        yield f"{path}{version}"
    yield f"api/v1/models/{ref.id}{version}"


def pasted(ref):
    """Every way in which this model is pasted."""
    yield from (str(ref), f"  {ref}\n", str(ref).replace(ref.hub, ref.hub.upper(), 1))
    if ref.hub == "local":
        return
    hosts = ("huggingface.co", "hf.co") if ref.hub == "hf" else (
        "civitai.com", "civitai.green", "civitai.red"
    )  # fmt: skip
    for page in hf_pages(ref) if ref.hub == "hf" else civitai_pages(ref):
        for host in hosts:
            yield from (f"https://{host}/{page}", f"http://www.{host}/{page}", f"{host}/{page}")
        path, mark, query = page.partition("?")
        yield f"HTTPS://{hosts[0].upper()}/{page}#top"
        yield f"https://{hosts[0]}:443/{path}/{mark}{query}"
    printed = str(ref).partition(":")[2]
    if ref.hub == "hf":
        yield f"hf.co/{quote(printed, safe='/@')}"
        below = f"/{ref.file}" if ref.file else ""
        at = f"@{ref.revision}" if ref.revision else ""
        yield f"hf://{ref.id}{at}{below}"
        yield f"urn:air:sdxl:model:huggingface:{printed}" if " " not in printed else str(ref)
        if ref.file:
            yield f"hf.co/{ref.id}:{ref.file}{at}"
        elif not at:
            yield f"git@hf.co:{ref.id}.git"
    else:
        for air in (
            f"urn:air:sdxl:lora:civitai:{printed}",
            f"AIR:Wan-Video:LORA:Civitai:{printed}",
        ):
            yield from (air, f"{air}.safetensors", f"{air}:unet", f"{air}+110.ckpt")


@given(HF | CIVITAI | LOCAL)
def test_every_pasted_form_is_read_as_the_model_that_it_names(ref):
    assert ModelRef.parse(str(ref)) == ref
    for text in pasted(ref):
        found = read_address(text)
        assert found is not None, text
        assert (found.model, found.hub, found.registry) == (ref, ref.hub, None), text


ADDRESS = st.from_regex(
    r"(https://(huggingface\.co|civitai\.com)|hf:/|urn:air)[ -~]{0,40}", fullmatch=True
)


@given(st.sampled_from(("hf", "civitai", "local", None)), st.text(max_size=40) | ADDRESS)
def test_any_text_is_a_model_that_can_be_printed_or_an_input_error(hub, text):
    refusal = found = None
    try:
        found = read_address(text, hub)
    except InputError as error:
        refusal = error
    assert refusal is None or (refusal.hint and "\n" not in refusal.message)
    if found is not None and found.model is not None:
        assert ModelRef.parse(str(found.model)) == found.model
        assert found.hub == found.model.hub


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("https://huggingface.co/gpt2", "hf:gpt2"),
        ("hf.co/gpt2/tree/main", "hf:gpt2"),
        (f"https://huggingface.co/gpt2/resolve/{SHA}/config.json", f"hf:gpt2@{SHA}"),
        ("https://huggingface.co/owner/tree/tree/main", "hf:owner/tree"),
        ("https://huggingface.co/owner/name/tree/main", "hf:owner/name"),
        ("hf:owner/name@main", "hf:owner/name@main"),
        ("hf://models/owner/name/style.safetensors", "hf:owner/name/style.safetensors"),
        ("https://huggingface.co/owner/name/discussions/new", "hf:owner/name"),
        ("https://huggingface.co/owner/name/blob/v1/LICENSE", "hf:owner/name@v1"),
        (
            "https://huggingface.co/owner/name/blob/main/checkpoint-500/x.safetensors",
            "hf:owner/name/checkpoint-500/x.safetensors",
        ),
        ("owner/name/*v2*.safetensors", "hf:owner/name/*v2*.safetensors"),
        ("owner/name/*Q4_K_M*", "hf:owner/name/*Q4_K_M*"),
        ("hf.co/owner/name/quants/x-Q4_0.gguf", "hf:owner/name/quants/x-Q4_0.gguf"),
        ("local:run/checkpoint-500/x.safetensors", "local:run/checkpoint-500/x.safetensors"),
        ("https://civitai.com./models/5", "civitai:5"),
        ("civitai.com/pt-BR/models/5/x?modelVersionId=6&token=SECRET", "civitai:5@6"),
        ("https://civitai.com/models/5?modelVersionId=", "civitai:5"),
    ],
)
def test_odd_ones(text, model):
    assert str(read_address(text, "hf").model) == model


@pytest.mark.parametrize("path", ["model-versions/6", "api/v1/model-versions/6"])
@pytest.mark.parametrize("end", ["", "/", "?type=Model&format=SafeTensor&token=SECRET"])
def test_a_version_may_leave_its_model_to_civitai(path, end):
    found = read_address(f"https://civitai.com/{path}{end}")
    assert (found.hub, found.model, found.version) == ("civitai", None, "6")
    assert read_address(f"civitai.red/api/download/models/6{end}").version == "6"


@pytest.mark.parametrize("below", ["", "/gmi", "/gmi/spec.json"])
@pytest.mark.parametrize(
    "entry", [f"hf/owner/name/{WEIGHTS}", "civitai/5/6"], ids=["hf", "civitai"]
)
def test_the_page_of_a_registrys_entry_names_its_model_and_the_registry(entry, below):
    found = read_address(f"https://huggingface.co/datasets/maker/specs/tree/{SHA}/{entry}{below}")
    hub, *parts, pin = entry.split("/")
    assert found.registry == "maker/specs"
    assert found.model == ModelRef(hub, "/".join(parts), pin)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://huggingface.co/datasets/owner/name", "is a dataset"),
        ("hf:datasets/owner/name", "is a dataset"),
        ("hf://datasets/owner/name", "is a dataset"),
        ("https://hf.co/spaces/owner/name", "is a Space"),
        ("https://huggingface.co/collections/owner/name-1", "not the page of a model"),
        ("https://huggingface.co/models?search=x", "not the page of a model"),
        ("https://huggingface.co", "not the address of a model"),
        ("https://huggingface.co//owner//name", "not the address of a model"),
        ("https://huggingface.co/owner/name/tree/main/unet", "names 'unet'"),
        ("https://huggingface.co/owner/name/blob/main/a/b.bin", "names 'a/b.bin'"),
        ("https://huggingface.co/owner/name/blob/main/a/../b.safetensors", "not the name of a"),
        ("https://huggingface.co/owner/name/blob/main/old.ckpt", "names 'old.ckpt'"),
        ("https://huggingface.co/owner/%2e%2e", "not the name of a model"),
        ("https://huggingface.co/owner/name%00", "not the address of a model"),
        ("hf.co/owner/name:Q4_K_M", "choose among GGUF files"),
        ("hf:owner/name:latest", "choose among GGUF files"),
        ("https://huggingfаce.co/owner/name", "cyrillic small letter a"),
        ("https://ｃivitai.com/models/5", "not the address|is no address"),
        ("https://huggingface.co.evil.example/owner/name", "not the address"),
        ("https://evilcivitai.com/models/5", "not the address"),
        ("https://civitai.com@evil.example/models/5", "a name before 'evil.example'"),
        ("https://user:secret@huggingface.co/owner/name", "a name before 'huggingface.co'"),
        ("https://huggingface.co:8443/owner/name", "'huggingface.co:8443' is not"),
        ("ftp://huggingface.co/owner/name", "begins with ftp://"),
        ("https://[civitai.com/models/5", "is no address"),
        ("https://civitai.com/images/5?token=SECRET", "not the page of a model"),
        ("https://civitai.com/models/5/a/b", "not the page of a model"),
        ("https://civitai.com/models/０５", "not the page of a model"),
        ("https://civitai.com/models/5?modelVersionId=6&modelVersionId=7", "names no version"),
        ("civitai:05", "names no model on Civitai"),
        ("civitai: 5", "names no model on Civitai"),
        ("urn:air:sd1:lora:elsewhere:5@6", "names no model on Civitai"),
        ("urn:isbn:0", "names no model on Civitai"),
        ("hf:owner/name\u202e", "not the name of a model"),
        ("x" * 5000, "not the name of a model"),
    ],
)
def test_refused_with_the_reason_and_no_secret(text, why):
    with pytest.raises(InputError, match=why) as caught:
        read_address(text)
    assert caught.value.hint
    assert not any(word in caught.value.message for word in ("SECRET", "secret"))


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("https://mirror.example/hub/owner/name/tree/v1", "hf:owner/name@v1"),
        ("mirror.example/hub/owner/name", "hf:owner/name"),
        ("https://huggingface.co/owner/name", "hf:owner/name"),
        ("http://127.0.0.1:8001/owner/name", "hf:owner/name"),
        ("127.0.0.1:8002/models/5", "civitai:5"),
    ],
)
def test_a_mirror_is_as_good_as_the_hub(text, model):
    broken = [("hf", "http://mirror.example:port"), ("civitai", "http://[")]
    assert str(read_address(text, None, [*broken, MIRROR, *LOOPBACK]).model) == model


@pytest.mark.parametrize(
    "text",
    [
        "https://mirror.example/owner/name",
        "https://mirror.example/hubble/name",  # not below /hub
        "http://127.0.0.1/a/b",
    ],
)
def test_and_no_more_than_that(text):
    with pytest.raises(InputError, match="not the address"):
        read_address(text, None, [MIRROR, *LOOPBACK])


def test_names_without_a_hub_are_those_of_the_one_that_is_asked():
    assert read_address("owner/name") is None
    assert str(read_address("owner/name", "hf").model) == "hf:owner/name"
    assert str(read_address("5@6", "civitai").model) == "civitai:5@6"
    assert read_address("style.safetensors", "civitai") is None
    assert str(read_address("hf.co/name", "local").model) == "local:hf.co/name"


@pytest.mark.parametrize(
    "text",
    ["owner/name", "hf:owner/name@v1", "https://huggingface.co/owner/name/tree/main", "SD 1.5", "",
     "https://civitai.com/models/5", "https://evil.example/a/b"],
)  # fmt: skip
def test_a_base_model_is_called_by_its_name(text):
    is_name = "owner/name" in text
    assert repository_name(text) == ("owner/name" if is_name else text)


@pytest.mark.parametrize(
    "text",
    ["owner/name", "datasets/owner/name", "hf://datasets/owner/name@main",
     "https://huggingface.co/datasets/owner/name/tree/main", "hf.co/datasets/owner/name",
     "https://mirror.example/hub/datasets/owner/name"],
)  # fmt: skip
def test_a_dataset_too(text):
    assert dataset_name(text, [MIRROR]) == "owner/name"
    assert dataset_name("https://huggingface.co/owner/name").startswith("https:")
