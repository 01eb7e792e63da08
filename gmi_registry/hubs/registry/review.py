"""Whether a proposed entry may go into the registry, and how near its images are to new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from gmi_registry.errors import (
    GmiError,
    IncomparableSpecsError,
    InputError,
    UnsupportedOperationError,
)
from gmi_registry.hubs.protocol import KnowsWeights
from gmi_registry.hubs.registry.entries import ENTRY_FILES, entry_of, entry_path, parse_file
from gmi_registry.sanitize import escaped
from gmi_registry.spec import MANIFEST_NAME, TENSORS_NAME, ModelRef, Spec, read_spec, verify

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
            wrong.append(f"{_shown(path)} is no file of an entry")
        elif size is None and known[1] in (MANIFEST_NAME, TENSORS_NAME):
            wrong.append(f"{path} would be removed")
        if known is not None:
            entries[known[0]] = path
    hint = "propose the files of one entry alone; the rest is the maintainers'"
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
        Finding(item.check, item.status, _without(item.detail, folder), item.hint)
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
    whose = " and ".join(sorted(owners)) or "somebody who is not known"
    return Finding(
        "owner",
        "failed",
        f"replaces an entry of {whose}",
        "a maintainer decides, and merges by hand",
    )


def _without(detail: str, folder: Path) -> str:
    """The folder is one of this machine, and gone soon."""
    return detail.replace(f"{folder}/", "")


def _shown(path: str) -> str:
    is_plain = escaped(path) == path and len(path) <= 200
    return path if is_plain else f"'{escaped(path[:200])}'"
