"""Whatever lies in the files, the answer is one clear line."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest

from gmi_registry.errors import DigestMismatchError, SpecFormatError, UnsupportedVersionError
from gmi_registry.index import Filters
from gmi_registry.index.stored import FolderFiles, StoredIndex, update_index
from gmi_registry.spec.canonical import canonical_json
from tests.support.stored_specs import OTHER, encoder_named, make_row

COUNT = 6


class Forged:
    """An index whose files can be changed, with everything in index.json adjusted to them."""

    def __init__(self, folder):
        self.folder = folder
        self.number = 0
        self.json = json.loads((folder / "index.json").read_bytes())

    @property
    def group(self):
        return self.json["groups"][self.number]

    @property
    def part(self):
        return self.group["parts"][0]

    def write(self):
        (self.folder / "index.json").write_bytes(canonical_json(self.json) + b"\n")

    def data(self, kind):
        return (self.folder / self.record(kind)["name"]).read_bytes()

    def record(self, kind):
        beside = {
            "prompts": self.group["prompt_embeddings"],
            "statistics": self.group["statistics"]["file"],
        }
        return beside.get(kind) or self.part[kind]

    def replace(self, kind, data, **about):
        record = self.record(kind)
        sha256 = hashlib.sha256(data).hexdigest()
        folder, _, name = record["name"].partition("/")
        record |= {
            "sha256": sha256,
            "size": len(data),
            "name": f"{folder}/{sha256[:32]}-{name.partition('-')[2]}",
        } | about
        (self.folder / folder / record["name"].partition("/")[2]).write_bytes(data)
        self.write()

    def array(self, kind, dtype):
        data = self.data(kind)
        start = 8 + int.from_bytes(data[:8], "little")
        return data[:start], np.frombuffer(data[start:], dtype).copy()

    def lines(self):
        return [json.loads(line) for line in self.data("entries").splitlines()]

    def replace_lines(self, lines):
        self.replace("entries", b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@pytest.fixture
def forged(tmp_path):
    update_index(tmp_path / "i", [make_row(number) for number in range(COUNT)])
    return Forged(tmp_path / "i")


def read_everything(folder, cache):
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache) as index:
        for group in index.groups:
            group.images(), group.grams(range(len(group)))


def refusal(forged, tmp_path, kind=SpecFormatError):
    """The one line with which opening the index, or asking it for everything, is refused."""
    with pytest.raises(kind) as caught:
        read_everything(forged.folder, tmp_path / "c")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600
    assert caught.value.hint
    return caught.value.message


ALL = ["entries", "means", "images", "grams", "prompts", "statistics"]


class TestFiles:
    @pytest.mark.parametrize("kind", ALL)
    def test_cut_short(self, kind, forged, tmp_path):
        path = forged.folder / forged.record(kind)["name"]
        path.write_bytes(path.read_bytes()[:-3])
        assert "bytes" in refusal(forged, tmp_path, DigestMismatchError)

    @pytest.mark.parametrize("kind", ALL)
    def test_other_bytes(self, kind, forged, tmp_path):
        path = forged.folder / forged.record(kind)["name"]
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)
        assert "digest" in refusal(forged, tmp_path, DigestMismatchError)

    @pytest.mark.parametrize("kind", ALL)
    def test_missing(self, kind, forged, tmp_path):
        (forged.folder / forged.record(kind)["name"]).unlink()
        assert "is missing" in refusal(forged, tmp_path)

    @pytest.mark.parametrize("kind", ALL)
    def test_a_link(self, kind, forged, tmp_path):
        path = forged.folder / forged.record(kind)["name"]
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        assert "symbolic link" in refusal(forged, tmp_path)

    def test_a_pipe(self, forged, tmp_path):
        path = forged.folder / forged.record("means")["name"]
        path.unlink()
        os.mkfifo(path)
        assert refusal(forged, tmp_path)

    @pytest.mark.parametrize("kind", ["means", "images", "grams", "prompts", "statistics"])
    def test_a_size_that_its_rows_do_not_have(self, kind, forged, tmp_path):
        forged.replace(kind, forged.data(kind) + bytes(8))
        assert "its rows take" in refusal(forged, tmp_path)

    @pytest.mark.parametrize("kind", ["means", "images", "grams", "prompts", "statistics"])
    def test_another_header(self, kind, forged, tmp_path):
        data = forged.data(kind)
        forged.replace(kind, data.replace(b'"dtype":"F', b'"dtype":"B', 1))
        assert "header" in refusal(forged, tmp_path)

    @pytest.mark.parametrize(
        ("kind", "dtype", "value", "reason"),
        [
            ("means", "<f4", np.nan, "norm nan"),
            ("means", "<f4", 1e30, "norm"),
            ("images", "<f2", np.inf, "norm inf"),
            ("images", "<f2", 6e4, "norm"),
            ("grams", "<f4", np.nan, "kernel"),
            ("grams", "<f4", 2, "kernel"),
            ("grams", "<f4", -0.5, "kernel"),
            ("prompts", "<f2", np.nan, "norm"),
            ("statistics", "<f8", np.inf, "not finite"),
            ("statistics", "<f8", -1e6, "negative"),
        ],
    )
    def test_numbers_that_nothing_gave(self, kind, dtype, value, reason, forged, tmp_path):
        header, array = forged.array(kind, dtype)
        array[0] = value
        forged.replace(kind, header + array.tobytes())
        assert reason in refusal(forged, tmp_path)

    def test_a_vector_of_nothing(self, forged, tmp_path):
        header, array = forged.array("images", "<f2")
        array[:6] = 0
        forged.replace("images", header + array.tobytes())
        assert "norm 0" in refusal(forged, tmp_path)

    def test_eigenvectors_that_are_none(self, forged, tmp_path):
        header, array = forged.array("statistics", "<f8")
        array[6:] *= 2
        forged.replace("statistics", header + array.tobytes())
        assert "eigenvectors" in refusal(forged, tmp_path)


class TestRows:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"model": "hf:../../etc@abc"}, "not the name"),
            ({"model": "hf:o/m\n@abc"}, ""),
            ({"model": "urn:air:sdxl:lora:civitai:1@2"}, "not written as"),
            ({"model": 5}, "model"),
            ({"digest": "0" * 63}, "digest"),
            ({"kind": "pickle"}, "kind"),
            ({"title": "a\u202eb"}, "U+202E"),
            ({"title": ""}, "title"),
            ({"tags": ["x" * 300]}, "tags"),
            ({"tags": [str(number) for number in range(201)]}, "tags"),
            ({"tags": "icon"}, "tags"),
            ({"url": "javascript:alert(1)"}, "url"),
            ({"downloads": -1}, "downloads"),
            ({"downloads": 1e400}, "downloads"),
            ({"nsfw": "yes"}, "nsfw"),
            ({"trust": "god"}, "trust"),
            ({"stamp": "a\nb"}, "stamp"),
            ({"hub_tags": [1]}, "hub_tags"),
        ],
    )
    def test_a_field_that_lies(self, change, reason, forged, tmp_path):
        lines = forged.lines()
        lines[2] |= change
        forged.replace_lines(lines)
        message = refusal(forged, tmp_path)
        assert "-entries.jsonl:3: " in message
        assert reason in message

    @pytest.mark.parametrize(
        "tag", ["'; drop table row; --", '"', "x' or '1'='1", "%", "\\", "{}", "$(id)"]
    )
    def test_sql_in_a_tag_is_a_tag(self, tag, forged, tmp_path):
        lines = forged.lines()
        lines[2]["tags"] = [tag]
        forged.replace_lines(lines)
        with StoredIndex.open(FolderFiles(forged.folder), cache_dir=tmp_path / "c") as index:
            (stack,) = index.groups
            (row,) = stack.select(Filters(tags=(tag.upper(),)))
            assert stack.entries[row].tags == (tag,)
            assert len(stack.entries) == COUNT

    def test_too_few_lines(self, forged, tmp_path):
        forged.replace_lines(forged.lines()[:-1])
        assert f"not {COUNT}" in refusal(forged, tmp_path)

    def test_too_many_lines(self, forged, tmp_path):
        forged.replace_lines([*forged.lines(), forged.lines()[0]])
        assert f"not {COUNT}" in refusal(forged, tmp_path)

    def test_no_end(self, forged, tmp_path):
        forged.replace("entries", forged.data("entries")[:-1])
        assert f"not {COUNT}" in refusal(forged, tmp_path)

    @pytest.mark.parametrize(
        "line", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"model":NaN}']
    )
    def test_no_json(self, line, forged, tmp_path):
        lines = forged.data("entries").splitlines()
        lines[1] = line
        forged.replace("entries", b"\n".join(lines) + b"\n")
        assert "-entries.jsonl:2: " in refusal(forged, tmp_path)

    def test_a_line_without_end(self, forged, tmp_path):
        lines = forged.data("entries").splitlines()
        lines[1] = lines[1][:-1] + b" " * 300_000 + b"}"
        forged.replace("entries", b"\n".join(lines) + b"\n")
        assert "longer than" in refusal(forged, tmp_path)

    def test_a_model_twice(self, forged, tmp_path):
        lines = forged.lines()
        lines[3]["model"] = lines[0]["model"].partition("@")[0]
        forged.replace_lines(lines)
        assert f"holds {lines[3]['model']} again" in refusal(forged, tmp_path)

    def test_a_model_in_two_groups(self, forged, tmp_path):
        update_index(forged.folder, [make_row(40, prompt_set=OTHER)])
        forged.json = json.loads((forged.folder / "index.json").read_bytes())
        forged.number = [group["parts"][0]["rows"] for group in forged.json["groups"]].index(1)
        (line,) = forged.lines()
        forged.replace_lines([line | {"model": str(make_row(3).indexed.entry.ref)}])
        assert "again" in refusal(forged, tmp_path)


def changed(path, value):
    """A change of index.json at a path of keys."""

    def change(document):
        for key in path[:-1]:
            document = document[key]
        if value is ...:
            del document[path[-1]]
        else:
            document[path[-1]] = value(document[path[-1]]) if callable(value) else value

    return change


PART = ("groups", 0, "parts", 0)


class TestDocument:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (changed(("format", "name"), "gmi-spec"), "format.name"),
            (changed(("format", "version"), "0.9"), "format.version"),
            (changed(("format", "version"), "1.0 "), "format.version"),
            (changed(("groups",), ...), ""),
            (changed((*PART, "rows"), 0), "rows"),
            (changed((*PART, "rows"), 7), "its rows take"),
            (changed((*PART, "rows"), 5), "its rows take"),
            (changed((*PART, "rows"), 2**40), "rows"),
            (changed((*PART, "removed"), [6]), "was removed"),
            (changed((*PART, "removed"), [1, 1]), "not in order"),
            (changed((*PART, "removed"), [2, 1]), "not in order"),
            (changed((*PART, "removed"), list(range(6))), "no row is left"),
            (changed((*PART, "means", "name"), "../../etc/passwd"), "means.name"),
            (changed((*PART, "means", "name"), lambda it: "../" + it), "means.name"),
            (changed((*PART, "means", "name"), lambda it: "/" + it), "means.name"),
            (changed((*PART, "means", "name"), lambda it: "0" * 16 + it[16:]), "is not the place"),
            (changed((*PART, "means", "name"), lambda it: it[:17] + "0" * 32 + it[49:]), "not"),
            (changed((*PART, "means", "size"), 2**52), "its rows take"),
            (changed((*PART, "entries", "size"), 2**50), "too long"),
            (changed((*PART, "means"), lambda _: {}), "means"),
            (changed(("groups", 0, "parts"), lambda it: it * 2), "named twice"),
            (changed(("groups", 0, "parts"), []), "parts"),
            (changed(("groups",), lambda it: it * 2), "there twice"),
            (changed(("groups", 0, "key", "gamma"), 0.5), "is not the place"),
            (changed(("groups", 0, "key", "kernel"), "linear"), "kernel"),
            (changed(("groups", 0, "key", "images_per_prompt"), 16_384), "images"),
            (changed(("groups", 0, "key", "encoder_id"), "0" * 16), "encoder_id"),
            (changed(("groups", 0, "encoder", "name"), "forged"), "encoder_id"),
            (changed(("groups", 0, "prompt_set", "prompts", 0), "a dog"), "prompt_set_id"),
            (changed(("groups", 0, "prompt_set", "prompts", 0), "a tree"), "already stands"),
            (changed(("groups", 0, "statistics", "temperature"), 0), "temperature"),
            (changed(("groups", 0, "statistics", "freedom"), -1), "freedom"),
            (changed((*PART, "a_new_field"), 1), "does not know"),
        ],
    )
    def test_it_lies(self, change, reason, forged, tmp_path):
        change(forged.json)
        forged.write()
        message = refusal(forged, tmp_path)
        assert message.startswith("index.json: ")
        assert reason in message

    @pytest.mark.parametrize("version", ["2.0", "17.3"])
    def test_a_newer_major(self, version, forged, tmp_path):
        forged.json = {"format": {"name": "gmi-index", "version": version}, "shards": 5}
        forged.write()
        message = refusal(forged, tmp_path, UnsupportedVersionError)
        assert version in message

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b'{"format":',
            b"\xff",
            b"[" * 200_000,
            b'{"format":{"name":"gmi-index","version":"1.0"},"format":{},"groups":[]}',
            b'{"format":{"name":"gmi-index","version":"1.0"}, "groups":[]}\n',
            b'{"format":{"name":"gmi-index","version":"1.0"},"groups":[],"groups":[]}\n',
            b'{"format":{"name":"gmi-index","version":"1.0"},"groups":[],"more":1}\n',
            b'{"format":{"name":"gmi-index","version":"1.0"},"groups":[],"more":1e999}\n',
        ],
    )
    def test_it_is_no_document(self, data, forged, tmp_path):
        (forged.folder / "index.json").write_bytes(data)
        assert refusal(forged, tmp_path).startswith("index.json")

    def test_it_is_too_large(self, forged, tmp_path):
        with (forged.folder / "index.json").open("r+b") as stream:
            stream.truncate(9 * 1024 * 1024)
        assert "more than" in refusal(forged, tmp_path)

    @pytest.mark.parametrize("item", [b"{}", b"[]", b"1", b'""'])
    def test_it_holds_too_much(self, item, forged, tmp_path):
        many = b'{"groups":[{"parts":[' + b",".join([item] * 1_000_000) + b"]}]}"
        (forged.folder / "index.json").write_bytes(many)
        assert "more than 100,000 values" in refusal(forged, tmp_path)

    def test_a_newer_minor_is_read(self, forged, tmp_path):
        forged.json["format"]["version"] = "1.4"
        forged.json["more"] = {"x": [1]}
        forged.part["more"] = "y"
        forged.write()
        with StoredIndex.open(FolderFiles(forged.folder), cache_dir=tmp_path / "c") as index:
            assert len(index) == COUNT

    def test_a_group_of_another_encoder_is_just_another_group(self, forged, tmp_path):
        update_index(forged.folder, [make_row(30, encoder=encoder_named("another"))])
        with StoredIndex.open(FolderFiles(forged.folder), cache_dir=tmp_path / "c") as index:
            assert sorted(len(group) for group in index.groups) == [1, COUNT]


@pytest.mark.parametrize("kind", ["entries", "prompts", "index.json"])
def test_a_writer_does_not_go_on_from_what_it_cannot_read(kind, forged, tmp_path):
    name = kind if kind == "index.json" else forged.record(kind)["name"]
    path = forged.folder / name
    path.write_bytes(path.read_bytes()[:-2])
    before = {it: it.read_bytes() for it in forged.folder.rglob("*-*") if it.is_file()}
    with pytest.raises(SpecFormatError):
        update_index(forged.folder, [make_row(9)])
    assert before == {it: it.read_bytes() for it in forged.folder.rglob("*-*") if it.is_file()}


def test_damaged_images_are_not_blessed_by_joining_parts(forged):
    path = forged.folder / forged.record("images")["name"]
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatchError):
        update_index(forged.folder, [make_row(number) for number in range(20, 26)])
