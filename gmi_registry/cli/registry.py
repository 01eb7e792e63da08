"""``gmi registry``: check what is proposed to the registry, and mark entries as verified."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.atomic import user_cache
from gmi_registry.cli.options import (
    AccessOptions,
    Device,
    OutputOptions,
    command,
    new_app,
    show_log,
    work_folder,
)
from gmi_registry.cli.output import (
    FAILED,
    StageProgress,
    without_future_warnings,
    write_findings,
    write_json,
    write_line,
)
from gmi_registry.errors import GmiError, InputError, OfflineError, SpecNotFoundError
from gmi_registry.hubs.open import DEFAULT_HUB, HubAccess, find_model, hub_named_in, opened_hub

if TYPE_CHECKING:
    from gmi_registry.hubs.registry.review import Finding, Inspection, Proposal
    from gmi_registry.index import ComparabilityKey
    from gmi_registry.index.groups import ModelGroup
    from gmi_registry.spec import Spec

_STAGES = {
    "check": "loading the model",
    "generate": "generating images again",
    "encode": "encoding images",
}
_SEEDS = 2**32

app = new_app("Check proposals to the registry, and mark entries as verified.")

AuditSeed = Annotated[
    int | None,
    typer.Option(min=0, help="Choose the same prompts as another audit did; else they are random."),
]


@dataclass(frozen=True)
class _Audit:
    """How some of an entry's images are generated again."""

    prompts: int
    seed: int | None
    device: str | None
    cache_dir: Path | None
    quiet: bool


@command(app)
def check(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="A folder with the registry's files and the proposal, instead of --revision.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A folder with the same files without the proposal."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="The pull request, such as refs/pr/3.")
    ] = None,
    audit: Annotated[
        int,
        typer.Option(
            metavar="K",
            min=0,
            help="Generate the images of K prompts again, if everything else is in order.",
        ),
    ] = 0,
    audit_seed: AuditSeed = None,
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Compare with the models of this index; default: the registry's, or those of "
            "--base.",
        ),
    ] = None,
    device: Device = None,
    *,
    access: AccessOptions,
    show: OutputOptions,
) -> None:
    """Check a proposal: one entry, its place and owner, its files, the weights that it describes,
    and whether it repeats other models or is near all of them.

    Exits with 1 where a check failed.
    """
    if (folder is None) != (base is None) or (folder is None) == (revision is None):
        raise typer.BadParameter("give --revision REV, or FOLDER and --base FOLDER")
    show_log(show.verbose)
    if audit:
        _require_generator(device)
    from gmi_registry.hubs.open import open_registry
    from gmi_registry.hubs.registry.review import compare_folders, inspect, read_pull

    with ExitStack() as stack:
        name: str | None = None
        proposal: Proposal
        if folder is not None and base is not None:
            proposal = compare_folders(base, folder)
        else:
            opened = stack.enter_context(open_registry(access.access))
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gmi-")))
            name = opened.dataset.id
            # The client's cache follows links, and the folder of scratch files may be one.
            proposal = read_pull(opened.dataset, str(revision), scratch.resolve())
        hubs = _Hubs(stack, access.access)
        found = inspect(proposal, hubs)
        findings: list[Any] = list(found.findings)
        if found.spec is not None:
            from gmi_registry.audit import proposal_findings
            from gmi_registry.index import SpecCache

            others = _others(stack, found.spec, index, base, access.access)
            findings += proposal_findings(found.spec, others, SpecCache(access.cache))
        if audit:
            options = _Audit(audit, audit_seed, device, access.cache_dir, show.quiet)
            findings.append(_audited(found, hubs, options))
    passed = all(finding.status != "failed" for finding in findings)
    document = {
        "ok": passed,
        "registry": name,
        "revision": revision,
        "commit": proposal.commit,
        "author": proposal.author,
        "entry": found.entry,
    }
    _write(document, findings, show)
    if not passed:
        raise typer.Exit(FAILED)


@command(app, "verify-entry")
def verify_entry(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The entry: civitai:MODEL@VERSION, or hf:owner/name@DIGEST."
        ),
    ],
    audit: Annotated[
        int, typer.Option(metavar="K", min=1, help="Generate the images of K prompts again.")
    ] = 3,
    audit_seed: AuditSeed = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose the change to verified.json.")
    ] = False,
    device: Device = None,
    *,
    access: AccessOptions,
    show: OutputOptions,
) -> None:
    """Generate some images of an entry again; where they agree, add it to verified.json.

    Exits with 1 where they do not.
    """
    from gmi_registry.hubs.open import open_registry
    from gmi_registry.hubs.registry.dataset import read_verified
    from gmi_registry.hubs.registry.entries import entry_of
    from gmi_registry.hubs.registry.registry import mark_verified
    from gmi_registry.hubs.registry.review import Inspection, check_weights
    from gmi_registry.spec import read_spec

    show_log(show.verbose)
    _require_generator(device)
    where: str | None = None
    with ExitStack() as stack:
        hubs = _Hubs(stack, access.access)
        ref = find_model(model, hubs[hub_named_in(model) or DEFAULT_HUB])
        if ref.revision is not None and not ref.is_entry:
            raise InputError(
                f"{ref} names a revision of the model, and entries are named by their weights",
                hint=f"gmi registry verify-entry {ref.without_revision}",
            )
        opened = stack.enter_context(open_registry(access.access))
        opened.check_writable(ref, create_pr=create_pr)
        read_verified(opened.dataset, opened.head())  # what cannot be read cannot be added to
        place = opened.fetch_spec(ref).parent
        spec = read_spec(place, expected=ref, follow_links=True)
        entry = entry_of(spec.manifest.model)
        findings = list(check_weights(spec, entry, hubs))
        options = _Audit(audit, audit_seed, device, access.cache_dir, show.quiet)
        findings.append(_audited(Inspection(tuple(findings), entry, spec), hubs, options))
        passed = all(finding.status == "ok" for finding in findings)
        if passed:
            content = spec.manifest.to_bytes()
            where = mark_verified(opened.dataset, entry, content, create_pr=create_pr)
    document = {
        "ok": passed,
        "registry": opened.dataset.id,
        "entry": entry,
        "digest": spec.digest,
        "where": where,
    }
    _write(document, findings, show)
    if where is not None and not (show.as_json or show.quiet):
        write_line(f"verified  {spec.digest} {where}")
    if not passed:
        raise typer.Exit(FAILED)


def _write(document: dict[str, Any], findings: list[Finding], show: OutputOptions) -> None:
    """``document`` without its findings; docs/registry.md says what each field means."""
    if show.as_json:
        write_json({**document, "findings": findings})
    elif not show.quiet:
        write_findings(findings)
    elif document["entry"] is not None:
        write_line(str(document["entry"]))


def _require_generator(device: str | None) -> None:
    """Raise where this machine cannot generate: that is no fault of anybody's specification."""
    from gmi_registry.device import require_device
    from gmi_registry.generation import require_packages

    require_packages()
    require_device(device)


class _Hubs(Mapping[str, Any]):
    """The hubs of the models, each opened when it is first needed."""

    def __init__(self, stack: ExitStack, access: HubAccess) -> None:
        self._stack = stack
        self._access = access
        self._opened: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._opened:
            self._opened[name] = self._stack.enter_context(opened_hub(name, self._access))
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("civitai", "hf"))

    def __len__(self) -> int:
        return 2


def _audited(found: Inspection, hubs: Mapping[str, Any], options: _Audit) -> Finding:
    """Generate the images of some prompts again, where nothing failed before.

    Does not raise for what is found, an error of the model or its hub included.
    """
    from gmi_registry.hubs.registry.review import Finding

    if not found.passed or found.spec is None or found.entry is None:
        return Finding("audit", "skipped", "the rest is not in order")
    from gmi_registry.audit import audit, choose_prompts
    from gmi_registry.hubs.registry.review import MEAN_TOLERANCE, ROW_TOLERANCE

    seed = secrets.randbelow(_SEEDS) if options.seed is None else options.seed
    prompts = choose_prompts(found.spec, options.prompts, seed)
    work = work_folder(None, user_cache(options.cache_dir))
    try:
        with StageProgress(_STAGES, quiet=options.quiet) as progress, without_future_warnings():
            result = audit(
                found.spec,
                hubs[found.entry.hub],
                prompts,
                work=work,
                device=options.device,
                progress=progress,
            )
    except GmiError as error:
        return Finding("audit", "failed", error.message, error.hint)
    detail = (
        f"{len(result.images)} images of {len(prompts)} prompts (seed {seed}): mean shift "
        f"{result.mean:.3f} of {MEAN_TOLERANCE:g}, worst {result.worst.shift:.3f} of "
        f"{ROW_TOLERANCE:g} ({result.worst.prompt!r}), of texts {result.text:.4f}"
    )
    if result.agrees:
        return Finding("audit", "ok", detail)
    hint = "generate more of them on another machine before you accuse anybody: --audit"
    return Finding("audit", "failed", detail, hint)


def _others(
    opened: ExitStack,
    spec: Spec,
    index: Path | None,
    base: Path | None,
    access: HubAccess,
) -> ModelGroup | None:
    """The models that the proposal may be compared with, until ``opened`` is closed.

    Of the index that was named; without one, the registry's own, or all that ``base`` holds. None
    where there are none.
    """
    from gmi_registry.hubs.open import open_registry
    from gmi_registry.index import ComparabilityKey
    from gmi_registry.index.stored import FolderFiles, StoredIndex

    key, place = ComparabilityKey.of(spec.manifest), user_cache(access.cache_dir)
    if index is None and base is not None:
        return _entries(base, key)
    try:
        if index is not None:
            known = StoredIndex.open(FolderFiles(index), cache_dir=place)
        else:
            opened_registry = opened.enter_context(open_registry(access))
            known = StoredIndex.open(opened_registry.aggregate(), cache_dir=place)
    except (SpecNotFoundError, OfflineError):
        if index is not None:
            raise
        return None
    opened.enter_context(known)
    return next((group for group in known.groups if group.key == key), None)


def _entries(base: Path, key: ComparabilityKey) -> ModelGroup | None:
    from gmi_registry.index import ComparabilityKey, Filters, SpecIndex
    from gmi_registry.spec import MANIFEST_NAME, SPEC_DIR, read_spec

    found = SpecIndex()
    for manifest in sorted(base.rglob(f"{SPEC_DIR}/{MANIFEST_NAME}")):
        with contextlib.suppress(GmiError):
            spec = read_spec(manifest.parent.parent)
            # Others are not compared, and need no memory.
            if ComparabilityKey.of(spec.manifest) == key:
                found.add(spec)
    selections = found.select(Filters())
    return selections[0].group if selections else None
