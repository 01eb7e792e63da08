"""A folder that others may write to, while it is read and written: nothing outside is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from gmi_registry.errors import GmiError, HubError
from gmi_registry.hubs.files import FileDigests, read_plain
from gmi_registry.hubs.open import makes_links
from gmi_registry.spec import ModelRef, files, read_manifest, read_spec, write_spec

pytestmark = pytest.mark.skipif(
    os.open not in os.supports_dir_fd or not Path("/proc/self/fd").is_dir(),
    reason="needs a system that opens files by the folder they are in",
)

REF = ModelRef("local", "style")


@pytest.fixture
def swap(built, tmp_path):
    """Put links to another model, outside of the hub, in the place of parts of ``style``."""
    built.add_lora("style")
    write_spec(built.make_spec("style", (200, 10, 10)), built.folder("style"))
    outside = tmp_path / "outside" / "style"
    shutil.copytree(built.folder("style"), outside)
    shutil.rmtree(outside / "gmi")
    write_spec(built.make_spec("style", (10, 10, 200)), outside)
    (outside / "gmi" / "private.txt").write_text("private")
    (outside / "README.md").write_text("# private\n")

    def run(part):
        ours, theirs = built.folder("style") / part, outside / part
        ours.rename(tmp_path / "aside")
        ours.symlink_to(theirs)

    run.outside = outside
    return run


def before_opening(monkeypatch, name, act):
    """Call ``act`` once, after all looks at ``name`` and just before it is opened."""
    real, done = os.open, []

    def opened(path, flags, mode=0o777, *, dir_fd=None):
        if Path(os.fspath(path)).name == name and not done:
            done.append(name)
            act()
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(files.os, "open", opened)
    return done


@pytest.mark.parametrize(
    ("part", "opened"),
    [("", "models"), ("", "style"), ("gmi", "gmi"), ("gmi/spec.json", "spec.json")],
)
def test_a_link_that_comes_between_look_and_reading_is_not_followed(
    built, swap, monkeypatch, part, opened
):
    inside = read_spec(built.folder("style")).digest
    folder = built.hub.fetch_spec(REF).parent
    done = before_opening(monkeypatch, opened, lambda: swap(part))
    found = set()
    with contextlib.suppress(GmiError):
        found.add(read_spec(folder, follow_links=makes_links(built.hub)).digest)
    assert done == [opened]
    assert found <= {inside}


def test_both_files_are_of_the_folder_that_was_there_first(built, swap, monkeypatch):
    inside = read_spec(built.folder("style")).digest
    before_opening(monkeypatch, "spec.tensors", lambda: swap("gmi"))
    assert read_spec(built.folder("style")).digest == inside


@pytest.mark.parametrize("part", ["", "README.md"])
def test_a_card_outside_of_the_hub_is_not_read(built, swap, monkeypatch, part):
    (built.folder("style") / "README.md").write_text("# Style\n")
    done = before_opening(monkeypatch, "README.md" if part else "style", lambda: swap(part))
    found = set()
    with contextlib.suppress(GmiError):
        found.add(built.hub.fetch_model(REF).card.title)
    assert done
    assert found <= {"Style"}


def test_models_are_listed_by_what_is_in_the_hub(built, swap, monkeypatch):
    from gmi_registry.hubs import Filters

    inside = read_spec(built.folder("style")).digest
    before_opening(monkeypatch, "style", lambda: swap(""))
    assert {it.spec_digest for it in built.hub.list_specs(Filters())} <= {inside, None}


def test_nothing_is_written_to_or_copied_from_outside(built, swap, tmp_path, monkeypatch):
    folder = tmp_path / "upload"
    write_spec(built.make_spec("style", (0, 200, 0)), folder)
    outside = {path.name for path in swap.outside.rglob("*")}
    import tempfile

    real = tempfile.mkdtemp

    def swapped(*args, **kwargs):
        monkeypatch.setattr(tempfile, "mkdtemp", real)
        swap("")
        return real(*args, **kwargs)

    monkeypatch.setattr(tempfile, "mkdtemp", swapped)
    built.hub.push_spec(REF, folder / "gmi")
    assert {path.name for path in swap.outside.rglob("*")} == outside
    done = tmp_path / "aside" / "gmi"  # the folder that was meant, under its new name
    assert (done / "spec.json").read_bytes() == (folder / "gmi" / "spec.json").read_bytes()
    assert not (done / "private.txt").exists()
    assert {path.name for path in done.parent.iterdir()} == {
        "gmi",
        "pytorch_lora_weights.safetensors",
    }


def test_a_link_in_the_place_of_the_old_files_is_not_copied_from(
    built, swap, monkeypatch, tmp_path
):
    folder = tmp_path / "upload"
    write_spec(built.make_spec("style", (0, 200, 0)), folder)
    before_opening(monkeypatch, "gmi", lambda: swap("gmi"))
    with pytest.raises(HubError):
        built.hub.push_spec(REF, folder / "gmi")
    assert not list(built.root.rglob("private.txt"))


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_neither_opened_nor_waited_for(built, swap, monkeypatch, kind):
    place = built.folder("style") / "gmi" / "spec.json"
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        import socket

        # By its bare name: the path of a socket may have 107 bytes, and a checkout lies anywhere.
        monkeypatch.chdir(place.parent)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    else:
        place.symlink_to("/dev/zero")
    start = time.monotonic()
    for read in (read_manifest, read_spec):
        with pytest.raises(GmiError, match=r"not a regular file|symbolic link"):
            read(built.folder("style"))
    with pytest.raises(HubError, match=r"not a regular file|symbolic link"):
        read_plain(place, 100)
    assert time.monotonic() - start < 5


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files away")
def test_a_second_name_of_somebody_elses_file_is_not_read(built, swap, tmp_path):
    private = tmp_path / "private"
    private.write_text("private")
    os.chown(private, 4711, -1)
    place = built.folder("style") / "gmi" / "spec.json"
    place.unlink()
    place.hardlink_to(private)
    with pytest.raises(GmiError, match="another name of somebody else's file"):
        read_spec(built.folder("style"))
    # Weights are shared between users in this way, and only their digest is seen.
    assert FileDigests(tmp_path / "digests").sha256(place, inside=built.root)


def test_a_folder_that_changes_all_the_time(built, swap, tmp_path):
    """Not at one chosen moment: at any."""
    inside, model = read_spec(built.folder("style")).digest, built.folder("style")
    stop = threading.Event()

    def change():
        while not stop.is_set():
            model.rename(tmp_path / "aside")
            model.symlink_to(swap.outside)
            model.unlink()
            (tmp_path / "aside").rename(model)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        end, found = time.monotonic() + 1, set()
        while time.monotonic() < end:
            try:
                folder = built.hub.fetch_spec(REF).parent
                found.add(read_spec(folder, follow_links=makes_links(built.hub)).digest)
            except GmiError:
                continue
    finally:
        stop.set()
        thread.join()
    assert found <= {inside}
