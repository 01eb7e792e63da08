"""One run with faults, and what must hold of it.

After the faults the repository holds the old specification or a whole new one, the cache holds
nothing that is wrong, and a second attempt succeeds, a third one without the network.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.errors import GmiError
from gmi_registry.hubs import Filters
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.publish_plan import _published
from gmi_registry.search.result import SearchResult
from gmi_registry.spec import ModelRef, Spec, read_spec
from tests.support.fault_plan import Plan
from tests.support.fault_world import BAD, CARD, COLOURS, REF, SECRET, WEIGHTS_NAME, World
from tests.support.loopback.repo import Commit

__all__ = ["Outcome", "run"]


@dataclass(frozen=True)
class Outcome:
    """``first`` is what became of the attempt with faults: ``done``, or the kind of error.

    ``met`` counts the requests that met a fault, by its kind.
    """

    seed: int
    stage: str
    first: str
    met: dict[str, int]


def run(world: World, plan: Plan) -> Outcome:
    """Raises AssertionError where the property does not hold, and any other error likewise."""
    world.begin(plan)
    first = (_publishing if plan.stage == "publish" else _searching)(world, plan)
    assert not world.hub.failures, world.hub.failures
    met: Counter[str] = Counter()
    for fault in plan.faults:
        met[fault.kind] += fault.seen
    return Outcome(plan.seed, plan.stage, first, {kind: n for kind, n in met.items() if n})


def _publishing(world: World, plan: Plan) -> str:
    world.add_style(plan)
    repo = world.hub.repo(REF.id)
    made: list[dict[str, bytes]] = []
    error = url = None
    with world.trouble(plan):
        try:
            with world.open() as hub:
                url = _publish(world, plan, hub, made)
        except GmiError as caught:
            error = caught
    _require_clear(error)
    assert url is None or url.startswith(f"{world.hub.endpoint}/{REF.id}/"), url
    _require_whole(world, plan, made)
    _require_true_cache(world.cache)

    mended = _mend_card(world)
    before = len(world.hub.history(REF.id))
    settled = not mended and bool(made) and _specification(repo.find("main")) == made[0]
    with world.open() as hub:
        url = _publish(world, plan, hub, made)
    assert url.startswith(f"{world.hub.endpoint}/{REF.id}/"), url
    if settled and error is None and made[-1] == made[0]:
        assert len(world.hub.history(REF.id)) == before, "published twice"
    _require_whole(world, plan, made)
    _require_true_cache(world.cache)
    _require_published(world, plan, made[-1])
    return _named(error)


def _publish(world: World, plan: Plan, hub: HuggingFaceHub, made: list[dict[str, bytes]]) -> str:
    """The steps of publishing around the drawing of pictures, which needs no hub."""
    hub.check_writable(REF)
    model = hub.fetch_model(REF)
    _published(REF, hub, {}, hub)
    folder = world.folder(model.weights, preview=plan.sheets[1])
    made.append({f"gmi/{path.name}": path.read_bytes() for path in folder.iterdir()})
    return hub.push_spec(REF, folder, create_pr=plan.create_pr)


def _require_whole(world: World, plan: Plan, made: list[dict[str, bytes]]) -> None:
    """Every commit of ours has one whole specification, of the weights that lie beside it."""
    repo = world.hub.repo(REF.id)
    heads = [repo.find(ref) for ref in sorted(repo.refs)]
    commits = {commit.oid: commit for head in heads for commit in repo.history(head)}
    ours = [commit for commit in commits.values() if _is_ours(commit)]
    for commit in ours:
        parent = commits[commit.parents[0]]
        held = _specification(commit)
        assert held in made, f"half a specification: {sorted(held)}"
        weights = json.loads(held["gmi/spec.json"])["model"]["weights"][0]["sha256"]
        assert weights == commit.files[WEIGHTS_NAME].sha256, "it describes other weights"
        touched = {path for path, _ in _identities(commit) ^ _identities(parent)}
        assert touched, "a commit that changes nothing"
        assert all(path.startswith("gmi/") or path == "README.md" for path in touched), touched
    if not plan.owner or plan.create_pr:
        on_main = {commit.oid for commit in world.hub.history(REF.id)}
        assert not any(commit.oid in on_main for commit in ours), "committed without being asked"


def _require_published(world: World, plan: Plan, wanted: dict[str, bytes]) -> None:
    """It can be read, by the network and then without it, and is there once."""
    repo = world.hub.repo(REF.id)
    pulls = [pull.ref for pull in repo.discussions.values()]
    head = repo.find("main")
    if not plan.owner or plan.create_pr:
        assert pulls, "no proposal"
        same = [ref for ref in pulls if _specification(repo.find(ref)) == wanted]
        assert len(same) == 1, f"proposed {len(same)} times"
        head = repo.find(same[0])
    else:
        assert not pulls, "a proposal of what could be committed"
    assert _specification(head) == wanted
    assert head.files["README.md"].content.count(b"gmi-spec\n") == 1
    if plan.owner and not plan.create_pr:
        with world.open() as hub:
            (listed,) = hub.list_specs(Filters())
            read = _read(hub, listed.ref)
        with world.open(offline=True) as hub:
            assert _read(hub, REF) == read
            # Counted where they leave: the hub may still be busy with one that nobody waits for.
            assert hub.traffic.total == 0, "asked the hub while offline"


def _read(hub: HuggingFaceHub, ref: ModelRef) -> Spec:
    return read_spec(hub.fetch_spec(ref).parent, expected=ref, follow_links=True)


def _searching(world: World, plan: Plan) -> str:
    world.add_gallery(plan)
    error = result = None
    with world.trouble(plan):
        try:
            with world.open() as hub:
                result = world.search(hub)
        except GmiError as caught:
            error = caught
    _require_clear(error)
    distances = _distances(result) if result else {}
    if result:
        skipped = [skip.model.id for skip in result.skipped]
        everything = sorted([*distances, *skipped])
        assert everything == sorted([*_gallery(), BAD]), f"a model is missing: {everything}"
        for skip in result.skipped:
            assert skip.reason, skip
            assert "\n" not in skip.reason, skip
            assert SECRET not in skip.reason, skip
        assert BAD in skipped
    _require_true_cache(world.cache)

    changed = _mend_gallery(world)
    with world.open() as hub:
        again = world.search(hub)
    if _is_poisoned(plan, again):
        # The hub itself vouched for what it served at that commit; the next commit ends it.
        for name in _gallery():
            world.hub.commit(name, {"notes.txt": b"next\n"})
        with world.open() as hub:
            again = world.search(hub)
    found = _distances(again)
    assert next(iter(found)) == "alice/red", found
    assert sorted(found) == _gallery(), [(skip.model.id, skip.reason) for skip in again.skipped]
    assert [skip.model.id for skip in again.skipped] == [BAD]
    assert all(hit.stale is False for hit in again.hits), again.hits
    for name, distance in distances.items():
        assert name in changed or abs(distance - found[name]) < 1e-6, name
    _require_true_cache(world.cache)

    with world.open(offline=True) as hub:
        away = world.search(hub)
        assert hub.traffic.total == 0, "asked the hub while offline"
    assert _distances(away) == found
    return _named(error)


def _is_poisoned(plan: Plan, result: SearchResult) -> bool:
    served = any(fault.kind == "hostile-content" and fault.seen for fault in plan.faults)
    return served and {skip.model.id for skip in result.skipped} != {BAD}


def _distances(result: SearchResult) -> dict[str, float]:
    """By model, the nearest first."""
    return {hit.ref.id: hit.distance for hit in result.hits}


def _gallery() -> list[str]:
    return sorted(f"alice/{name}" for name in COLOURS)


def _mend_gallery(world: World) -> set[str]:
    """Put back what strangers changed; the models that this was done for."""
    changed = set()
    for name in COLOURS:
        files = world.model_files(name)
        if world.hub.files(f"alice/{name}") != files:
            world.hub.commit(f"alice/{name}", files)
            changed.add(f"alice/{name}")
    return changed


def _mend_card(world: World) -> bool:
    """A card that strangers broke is its owner's to mend; whether it was broken."""
    broken = b"[\n" in world.hub.files(REF.id)["README.md"]
    if broken:
        world.hub.commit(REF.id, {"README.md": CARD})
    return broken


def _require_clear(error: GmiError | None) -> None:
    if error is None:
        return
    assert error.message, repr(error)
    assert error.hint, f"no hint: {error.message}"
    said = f"{error.message} {error.hint}"
    assert "\n" not in said, said
    assert "hf_" not in said, said


def _require_true_cache(cache: Path) -> None:
    """Every file in it has the digest that it lies under."""
    for place in _snapshots(cache / "hub"):
        # What a link in a snapshot points to may itself be a link, into a store of all models.
        blob, content = place.readlink().name, place.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        assert blob in (git, hashlib.sha256(content).hexdigest()), f"{place.name} is another file"


def _snapshots(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("models--*/snapshots/*/**/*") if path.is_file())


def _is_ours(commit: Commit) -> bool:
    return bool(commit.parents) and commit.author != "somebody-else"


def _identities(commit: Commit) -> set[tuple[str, str]]:
    return {(path, blob.oid) for path, blob in commit.files.items()}


def _specification(commit: Commit) -> dict[str, bytes]:
    return {path: blob.content for path, blob in commit.files.items() if path.startswith("gmi/")}


def _named(error: GmiError | None) -> str:
    return "done" if error is None else type(error).__name__
