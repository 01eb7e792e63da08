"""Proposals to the registry, and whether they may go there.

A proposal is a pull request, or a folder beside another one. It is checked name by name, file by
file and against the weights that its model has now; an audit compares its images with new ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._pagination import paginate

from gmi_registry.errors import (
    GmiError,
    HubError,
    IncomparableSpecsError,
    InputError,
    SpecNotFoundError,
    UnsupportedOperationError,
)
from gmi_registry.hubs.files import opened_plain
from gmi_registry.hubs.huggingface.download import COMMIT
from gmi_registry.hubs.huggingface.publishing import StoredFile
from gmi_registry.hubs.protocol import KnowsWeights
from gmi_registry.hubs.registry.dataset import REPO_TYPE, Dataset
from gmi_registry.hubs.registry.entries import (
    ENTRY_FILES,
    entry_file,
    entry_of,
    entry_path,
    parse_file,
)
from gmi_registry.sanitize import escaped
from gmi_registry.spec import MANIFEST_NAME, TENSORS_NAME, ModelRef, Spec, read_spec, verify
from gmi_registry.spec.reference import unprintable

Check = Literal[
    "paths",
    "sizes",
    "manifest",
    "tensors",
    "preview",
    "signature",
    "place",
    "owner",
    "weights",
    "norms",
    "copies",
    "hubness",
    "audit",
]
"""In the order in which they are made."""

Status = Literal["ok", "failed", "skipped"]

MEAN_TOLERANCE = 0.10
"""The most that the shifts of images may come to on average."""
ROW_TOLERANCE = 0.30
"""The most that a single image may be shifted."""
TEXT_TOLERANCE = 0.01
"""The most that the embedding of a prompt may be shifted: nothing is drawn for it."""
_SHOWN = 5

# A proposal that is older than so many commits on either side is to be made anew.
_FARTHEST = 10_000
_PULL = re.compile(r"refs/pr/([1-9][0-9]{0,8})")
# The hub puts the pull request's number behind the title of the commit that merges it.
_MERGED = re.compile(r"\(#([1-9][0-9]{0,8})\)\s*")
_LONGEST_NAME = 100
# What the client says in place of somebody whose account is gone.
_NOBODY = "deleted"
_FOLDERS = 24
_GIT = ".git"
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; ``detail`` is one line, ``hint`` the next thing to do or None."""

    check: Check
    status: Status
    detail: str
    hint: str | None = None


@dataclass(frozen=True)
class Shift:
    """How far one image's embedding is from the one drawn again: their L2 distance, divided by the
    L2 norm of the latter, so that whoever stated the former has no hand in the unit."""

    prompt: str
    seed: int
    shift: float


@dataclass(frozen=True)
class ImageComparison:
    """``images`` in the order in which they were drawn; ``text`` is the largest shift of a prompt.

    Images that one model draws of one prompt and seed on other machines, in other batches or
    precisions, differ a little; those of another model differ a lot. docs/registry.md has the
    figures on which the tolerances rest.
    """

    images: tuple[Shift, ...]
    text: float

    @property
    def mean(self) -> float:
        """The mean shift of the images."""
        return sum(image.shift for image in self.images) / len(self.images)

    @property
    def worst(self) -> Shift:
        """The image that is shifted most."""
        return max(self.images, key=lambda image: image.shift)

    @property
    def agrees(self) -> bool:
        """Whether all tolerances are kept."""
        return (
            self.mean <= MEAN_TOLERANCE
            and self.worst.shift <= ROW_TOLERANCE
            and self.text <= TEXT_TOLERANCE
        )


def compare_images(stated: Spec, drawn: Spec) -> ImageComparison:
    """Compare the images of ``drawn`` with those that ``stated`` has of the same prompts and seeds.

    Raises IncomparableSpecsError for two encoders, or where ``stated`` has no such images.
    """
    theirs, ours = stated.manifest, drawn.manifest
    if theirs.encoder.id != ours.encoder.id:
        raise IncomparableSpecsError(
            f"images seen by {ours.encoder.name} ({ours.encoder.id}) say nothing of a "
            f"specification made with {theirs.encoder.name} ({theirs.encoder.id})",
            hint="load the encoder that the specification names",
        )
    rows = _rows(stated)
    images: list[Shift] = []
    text = 0.0
    for (prompt, seed), row in _rows(drawn).items():
        if (prompt, seed) not in rows:
            raise IncomparableSpecsError(
                f"the specification has no image of {prompt!r} with seed {seed}"
            )
        other = rows[prompt, seed]
        images.append(
            Shift(prompt, seed, _shift(stated.image_embeddings[other], drawn.image_embeddings[row]))
        )
        said = stated.prompt_embeddings[stated.image_prompt[other]]
        text = max(text, _shift(said, drawn.prompt_embeddings[drawn.image_prompt[row]]))
    return ImageComparison(tuple(images), text)


def _rows(spec: Spec) -> dict[tuple[str, int], int]:
    """The row of each prompt's image with each seed; of a prompt in two sets that of the first."""
    manifest = spec.manifest
    prompts = [prompt for block in manifest.prompt_sets for prompt in block.prompts]
    seeds = manifest.generation.recipe.seeds
    seen = [0] * len(prompts)
    found: dict[tuple[str, int], int] = {}
    for row, prompt in enumerate(spec.image_prompt.tolist()):
        found.setdefault((prompts[prompt], seeds[seen[prompt]]), row)
        seen[prompt] += 1
    return found


def _shift(stated: npt.NDArray[np.float16], drawn: npt.NDArray[np.float16]) -> float:
    a, b = stated.astype(np.float64), drawn.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@dataclass(frozen=True)
class Proposal:
    """A change of the registry, as it is proposed.

    ``changed`` maps each path that would be another to the bytes it would have, None for a file
    that would go. ``author`` is who proposes it, where that is known. ``commit`` is what was looked
    at (40 hex digits), None for a folder.

    ``owners`` says whose an entry is that the registry has now: None where it has none, empty where
    nobody knows. ``unpack`` gives the folder of an entry as proposed, with its ``gmi`` in it;
    ``linked`` says that this package made the links in there. Both raise errors of the hub.
    """

    changed: Mapping[str, int | None]
    author: str | None
    commit: str | None
    owners: Callable[[ModelRef], frozenset[str] | None]
    unpack: Callable[[ModelRef], Path]
    linked: bool


@dataclass(frozen=True)
class Inspection:
    """All ``findings``, in order; ``entry`` and ``spec`` where the proposal has one."""

    findings: tuple[Finding, ...]
    entry: ModelRef | None
    spec: Spec | None

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(finding.status != "failed" for finding in self.findings)


def inspect(proposal: Proposal, hubs: Mapping[str, KnowsWeights]) -> Inspection:
    """Make every check of docs/registry.md but the audit.

    ``hubs`` are asked for the weights, by the name of the model's hub. What is found does not
    raise; what keeps the registry itself from being read does (HubError, AuthError, OfflineError).
    A later check is skipped where an earlier one leaves it nothing to look at.
    """
    entry, findings = _paths(proposal)
    if entry is None:
        return Inspection(tuple(findings), None, None)
    findings.append(_sizes(proposal))
    if findings[-1].status == "failed":
        return Inspection(tuple(findings), entry, None)
    spec, found = _files(proposal, entry)
    findings += found
    if spec is not None:
        findings.append(_place(spec, entry))
    findings.append(_owner(proposal, entry))
    if spec is not None:
        findings += check_weights(spec, entry, hubs)
    return Inspection(tuple(findings), entry, spec)


def check_weights(
    spec: Spec, entry: ModelRef, hubs: Mapping[str, KnowsWeights]
) -> Iterator[Finding]:
    """Whether the model has the weights that ``spec`` describes, on its hub and now.

    One finding a weight file, or one that says why they cannot be told.
    """
    # On Hugging Face the weights of today's main branch, whatever revision the manifest records:
    # a pull request to somebody's model has a commit too, and anybody may open one.
    ref = entry.without_revision if entry.hub == "hf" else entry
    hub = hubs.get(ref.hub)
    if hub is None:
        yield Finding("weights", "failed", f"{ref}: this program cannot ask {ref.hub} from here")
        return
    try:
        current = hub.weight_digests(ref)
    except GmiError as error:
        yield Finding("weights", "failed", error.message, error.hint)
        return
    if current is None:
        yield Finding("weights", "failed", f"{ref}: its hub does not say which weights it has")
        return
    for weight in spec.manifest.model.weights:
        if weight.path not in current:
            detail = f"{ref} has no {weight.path}"
        elif current[weight.path] is None:
            detail = f"{ref}: its hub states no digest of {weight.path}"
        elif current[weight.path] != weight.sha256:
            detail = f"{ref}: {weight.path} is another file than the one that was described"
        else:
            yield Finding("weights", "ok", f"{ref} has {weight.path}")
            continue
        yield Finding("weights", "failed", detail, f"publish it again: gmi-publish {ref}")


def _paths(proposal: Proposal) -> tuple[ModelRef | None, list[Finding]]:
    """The one entry that is touched, or why there is none."""
    if not proposal.changed:
        return None, [Finding("paths", "failed", "nothing is changed")]
    wrong: list[str] = []
    entries: dict[ModelRef, str] = {}
    for path, size in sorted(proposal.changed.items()):
        known = parse_file(path)
        if known is None:
            wrong.append(f"{_shown(path)} is not a file of an entry")
        elif size is None and known[1] in (MANIFEST_NAME, TENSORS_NAME):
            wrong.append(f"{path} would be removed")
        if known is not None:
            entries[known[0]] = path
    hint = "propose only the files of one entry; the rest belongs to the maintainers"
    findings = [Finding("paths", "failed", detail, hint) for detail in wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        findings.append(Finding("paths", "failed", f"and {len(wrong) - _SHOWN:,} more paths", hint))
    if len(entries) > 1:
        names = ", ".join(map(str, list(entries)[:3]))
        findings.append(
            Finding("paths", "failed", f"{len(entries):,} entries are touched: {names}", hint)
        )
    if findings:
        return None, findings
    (entry,) = entries
    return entry, [Finding("paths", "ok", f"{entry_path(entry)} and nothing else")]


def _sizes(proposal: Proposal) -> Finding:
    total = 0
    for path, size in sorted(proposal.changed.items()):
        limit = ENTRY_FILES[path.rpartition("/")[2]]
        if size is not None and size > limit:
            return Finding("sizes", "failed", f"{path} has {size:,} bytes, more than {limit:,}")
        total += size or 0
    return Finding("sizes", "ok", f"{total:,} bytes")


def _files(proposal: Proposal, entry: ModelRef) -> tuple[Spec | None, list[Finding]]:
    """The specification where it can be read, and what :func:`gmi_registry.spec.verify` says."""
    folder = proposal.unpack(entry)
    found = verify(folder, expected=entry, follow_links=proposal.linked, weights=False)
    findings = [
        # The folder is one of this machine, and gone soon.
        Finding(item.check, item.status, item.detail.replace(f"{folder}/", ""), item.hint)
        for item in found
        if item.check != "weights"
    ]
    if any(item.status == "failed" for item in findings if item.check != "preview"):
        return None, findings
    return read_spec(folder, expected=entry, follow_links=proposal.linked), findings


def _place(spec: Spec, entry: ModelRef) -> Finding:
    try:
        right = entry_of(spec.manifest.model)
    except (InputError, UnsupportedOperationError) as error:
        return Finding("place", "failed", error.message, error.hint)
    if right != entry:
        return Finding(
            "place",
            "failed",
            f"what {MANIFEST_NAME} describes belongs into {entry_path(right)}",
            "let the publishing program choose the place: gmi-publish --to registry",
        )
    return Finding("place", "ok", f"model and weights are those of {entry_path(entry)}")


def _owner(proposal: Proposal, entry: ModelRef) -> Finding:
    owners = proposal.owners(entry)
    if owners is None:
        return Finding("owner", "ok", "a new entry")
    if proposal.author is not None and proposal.author in owners:
        return Finding("owner", "ok", f"{proposal.author} replaces an entry of their own")
    whose = " and ".join(sorted(owners)) or "somebody unknown"
    return Finding(
        "owner",
        "failed",
        f"replaces an entry of {whose}",
        "a maintainer decides, and merges by hand",
    )


def _shown(path: str) -> str:
    is_plain = escaped(path) == path and len(path) <= 200
    return path if is_plain else f"'{escaped(path[:200])}'"


@dataclass(frozen=True)
class RegistryCommit:
    """``id`` has 40 hex digits; ``authors`` are names of accounts."""

    id: str
    title: str
    authors: tuple[str, ...]


def commits(dataset: Dataset, revision: str) -> Iterator[RegistryCommit]:
    """The commits of a revision, the newest first; one request a page, when it is reached."""
    api = dataset.api
    with dataset.translated_errors(revision):
        for item in paginate(
            f"{api.endpoint}/api/{REPO_TYPE}s/{dataset.id}/commits/{quote(revision, safe='')}",
            params={},
            headers=build_hf_headers(token=api.token, library_name=api.library_name),
        ):
            name = item["id"]
            if not isinstance(name, str) or not COMMIT.fullmatch(name):
                raise HubError(f"{dataset.asked.name}: the hub gives a commit an impossible name")
            authors = (author.get("user") for author in item.get("authors") or ())
            title = item.get("title")
            yield RegistryCommit(
                name,
                title if isinstance(title, str) else "",
                tuple(found for found in map(_account, authors) if found is not None),
            )


def merge_base(dataset: Dataset, revision: str, trunk: str = "main") -> str | None:
    """The newest commit of ``trunk`` that ``revision`` is built on; None where there is none."""
    ours: set[str] = set()
    theirs: set[str] = set()
    walk = zip_longest(commits(dataset, revision), commits(dataset, trunk))
    for mine, other in islice(walk, _FARTHEST):
        if mine is not None:
            ours.add(mine.id)
            if mine.id in theirs:
                return mine.id
        if other is not None:
            theirs.add(other.id)
            if other.id in ours:
                return other.id
    return None


def author_of_pull(dataset: Dataset, revision: str) -> str | None:
    """Who opened the pull request ``refs/pr/N``; None for another revision, or nobody known."""
    found = _PULL.fullmatch(revision)
    if found is None:
        return None
    return _account(_details(dataset, int(found.group(1))).author)


def authors_of(dataset: Dataset, path: str, commit: str) -> frozenset[str]:
    """Whose the content is that a file has at a commit: three requests.

    Of one that came by a pull request it is who opened that, not who merged it.
    """
    infos: Any = dataset.ask(
        lambda: dataset.api.get_paths_info(
            dataset.id, [path], expand=True, revision=commit, repo_type=REPO_TYPE
        ),
        commit,
    )
    last = infos[0].last_commit.oid if infos and infos[0].last_commit is not None else ""
    if not COMMIT.fullmatch(last):
        return frozenset()
    newest = next(commits(dataset, last), None)
    if newest is None:
        return frozenset()
    numbers = _MERGED.findall(newest.title)
    if numbers:
        # Anybody may write a number into a title; the pull request knows its own commit.
        pull = _details(dataset, int(numbers[-1]))
        if pull.is_pull_request and pull.merge_commit_oid == newest.id:
            author = _account(pull.author)
            return frozenset() if author is None else frozenset({author})
    return frozenset(newest.authors)


def _details(dataset: Dataset, number: int) -> Any:
    return dataset.ask(
        lambda: dataset.api.get_discussion_details(dataset.id, number, repo_type=REPO_TYPE),
        f"refs/pr/{number}",
    )


def _account(name: object) -> str | None:
    usable = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and not unprintable(name)
    return str(name) if usable and name != _NOBODY else None


def read_pull(dataset: Dataset, revision: str, scratch: Path) -> Proposal:
    """What a pull request (``refs/pr/3``), or a branch, changes since it left ``main``.

    Its files are kept in ``scratch``, an empty folder, and nowhere else. Costs about twenty
    requests, and one for each further page of a listing. Raises SpecNotFoundError for an unknown
    revision, or one that is not built on ``main``, and every other error of the hub.
    """
    commit = dataset.head(revision)
    start = merge_base(dataset, commit)
    if start is None:
        raise SpecNotFoundError(
            f"{dataset.asked.name}: {revision} is not built on main",
            hint="propose it again: gmi-publish --to registry",
        )
    kept = dataset.in_cache(scratch)

    def unpack(entry: ModelRef) -> Path:
        limits = {entry_file(entry, name): limit for name, limit in ENTRY_FILES.items()}
        there = dataset.stored(commit, list(limits))
        places = [kept.fetch(path, commit, limit=limits[path]) for path in there]
        return places[0].parents[1] if places else scratch

    def owners(entry: ModelRef) -> frozenset[str] | None:
        # Of today's main: somebody else's may have come there since the proposal left it.
        path, head = entry_file(entry, MANIFEST_NAME), dataset.head()
        return authors_of(dataset, path, head) if dataset.stored(head, [path]) else None

    return Proposal(
        changed=_changes(dataset, start, commit),
        author=author_of_pull(dataset, revision),
        commit=commit,
        owners=owners,
        unpack=unpack,
        linked=True,
    )


def _changes(dataset: Dataset, start: str, commit: str) -> dict[str, int | None]:
    """Paths that differ: the bytes that they have at ``commit``, None for those that are gone."""
    try:
        return dict(_differing(dataset, start, commit, None, [0]))
    except _TooManyError:
        before, after = dataset.tree(start), dataset.tree(commit)
        return dict(_compared(before, after))


def _differing(
    dataset: Dataset, start: str, commit: str, folder: str | None, looked: list[int]
) -> Iterator[tuple[str, int | None]]:
    """Only folders that differ are looked into, which of a large registry are few."""
    looked[0] += 1
    if looked[0] > _FOLDERS:
        raise _TooManyError
    before, after = dataset.level(start, folder), dataset.level(commit, folder)
    files = [
        {path: item for path, item in side.items() if not isinstance(item, str)}
        for side in (before, after)
    ]
    yield from _compared(*files)
    for path in sorted(before.keys() | after.keys()):
        sides = before.get(path), after.get(path)
        if sides[0] != sides[1] and any(isinstance(side, str) for side in sides):
            yield from _differing(dataset, start, commit, path, looked)


def _compared(
    before: Mapping[str, StoredFile], after: Mapping[str, StoredFile]
) -> Iterator[tuple[str, int | None]]:
    for path, stored in after.items():
        if before.get(path) != stored:
            yield path, stored.size
    for path in before:
        if path not in after:
            yield path, None


class _TooManyError(Exception):
    """So many folders differ that it is cheaper to list everything."""


def compare_folders(base: Path, folder: Path) -> Proposal:
    """What ``folder`` changes of ``base``; git's own folder at the root of either is left out.

    Links are not followed. A folder does not say whose an entry is, so a maintainer decides on
    replacing one. Raises InputError where one of them is not a folder, or cannot be read.
    """
    try:
        before, after = dict(_files_below(base)), dict(_files_below(folder))
        changed = {
            path: after[path].lstat().st_size
            for path in after
            if path not in before or not _same(before[path], after[path])
        }
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror or error}") from error

    def owners(entry: ModelRef) -> frozenset[str] | None:
        return frozenset() if os.path.lexists(base / entry_file(entry, MANIFEST_NAME)) else None

    return Proposal(
        changed={**changed, **{path: None for path in before if path not in after}},
        author=None,
        commit=None,
        owners=owners,
        unpack=lambda entry: folder / entry_path(entry),
        linked=False,
    )


def _files_below(root: Path) -> Iterator[tuple[str, Path]]:
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", hint="name a folder with the registry's files")
    for place, folders, names in os.walk(root, onerror=_raise):
        here = Path(place)
        if here == root and _GIT in folders:
            folders.remove(_GIT)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in (*names, *links):
            path = here / name
            yield path.relative_to(root).as_posix(), path


def _same(first: Path, second: Path) -> bool:
    try:
        with opened_plain(first) as before, opened_plain(second) as after:
            while True:
                pieces = before.read(_CHUNK), after.read(_CHUNK)
                if pieces[0] != pieces[1]:
                    return False
                if not pieces[0]:
                    return True
    except HubError:  # a link, or no regular file
        return False


def _raise(error: OSError) -> None:
    raise error
