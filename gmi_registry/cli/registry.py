"""``gmi registry``: check what is proposed to the registry, and mark entries as verified."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.options import (
    AsJson,
    CacheDir,
    CivitaiToken,
    Device,
    Quiet,
    RegistryText,
    Token,
    cache_folder,
    new_app,
    work_folder,
)
from gmi_registry.cli.output import FAILED, StageProgress, handle_errors, write_json, write_line
from gmi_registry.errors import InputError
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.open import DEFAULT_HUB, opened_hub
from gmi_registry.hubs.resolve import find_model, hub_named_in

if TYPE_CHECKING:
    from gmi_registry.hubs.registry.review import Finding, Inspection, Proposal
    from gmi_registry.index import ComparabilityKey
    from gmi_registry.index.groups import ModelGroup
    from gmi_registry.spec import ModelRef, Spec

_STAGES = {
    "check": "loading the model",
    "generate": "drawing images again",
    "encode": "encoding images",
}
_SEEDS = 2**32
_HUBS = ("civitai", "hf")


class Hubs(Mapping[str, Any]):
    """The hubs of the models, each opened when it is asked for the first time."""

    def __init__(self, stack: ExitStack, access: HubAccess) -> None:
        self._stack = stack
        self._access = access
        self._opened: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._opened:
            self._opened[name] = self._stack.enter_context(opened_hub(name, self._access))
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_HUBS)

    def __len__(self) -> int:
        return len(_HUBS)


def audited(
    found: Inspection,
    hubs: Mapping[str, Any],
    count: int,
    seed: int | None,
    device: str | None,
    cache_dir: Path | None,
    *,
    quiet: bool,
) -> Finding:
    """Draw the images of ``count`` prompts again, where nothing failed before.

    ``seed`` chooses the prompts, None draws one. Does not raise for what is found, an error of the
    model or its hub included.
    """
    from gmi_registry.hubs.registry.review import Finding

    if not found.passed or found.spec is None or found.entry is None:
        return Finding("audit", "skipped", "the rest is not in order")
    from gmi_registry.audit import audit, choose_prompts
    from gmi_registry.cli.output import without_future_warnings
    from gmi_registry.errors import GmiError
    from gmi_registry.hubs.registry.review import MEAN_TOLERANCE, ROW_TOLERANCE

    seed = secrets.randbelow(_SEEDS) if seed is None else seed
    prompts = choose_prompts(found.spec, count, seed)
    work = work_folder(None, cache_folder(cache_dir))
    try:
        with StageProgress(_STAGES, quiet=quiet) as progress, without_future_warnings():
            result = audit(
                found.spec,
                hubs[found.entry.hub],
                prompts,
                work=work,
                device=device,
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
    hint = "draw more of them on another machine before you accuse somebody: --audit"
    return Finding("audit", "failed", detail, hint)


app = new_app("Check what is proposed to the registry, and say what was verified.")

AuditSeed = Annotated[
    int | None,
    typer.Option(
        "--audit-seed",
        min=0,
        help="Choose the prompts that another audit chose; else they are drawn by lot.",
        show_default=False,
    ),
]


@app.command()
@handle_errors()
def check(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Files of the registry with a proposal in them, in place of --revision.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", metavar="FOLDER", help="The same files without it.", show_default=False
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            metavar="REV",
            help="The pull request, such as refs/pr/3.",
            show_default=False,
        ),
    ] = None,
    registry: RegistryText = None,
    audit: Annotated[
        int,
        typer.Option(
            "--audit",
            metavar="K",
            min=0,
            help="Draw the images of K prompts again, where all else is in order.",
        ),
    ] = 0,
    audit_seed: AuditSeed = None,
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            metavar="DIR",
            help="Compare with the models of this index; else with the registry's, or --base.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    token: Token = None,
    civitai_token: CivitaiToken = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check a proposal: one entry, its place and owner, its files, the weights it describes, and
    whether it repeats other models or is near all of them.

    Exits with 1 where a check failed.
    """
    if (folder is None) != (base is None) or (folder is None) == (revision is None):
        raise typer.BadParameter("give --revision REV, or FOLDER and --base FOLDER")
    if audit:
        _require_drawing(device)
    from gmi_registry.hubs.registry import Registry
    from gmi_registry.hubs.registry.proposals import compare_folders, read_pull
    from gmi_registry.hubs.registry.review import inspect

    access = HubAccess(cache_dir, token, None, registry, civitai_token)
    with ExitStack() as stack:
        name: str | None = None
        proposal: Proposal
        if folder is not None and base is not None:
            proposal = compare_folders(base, folder)
        else:
            opened = stack.enter_context(Registry.open(access))
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gmi-")))
            name = opened.dataset.id
            # The client's cache follows links, and the folder of scratch files may be one.
            proposal = read_pull(opened.dataset, str(revision), scratch.resolve())
        hubs = Hubs(stack, access)
        found = inspect(proposal, hubs)
        findings = list(found.findings)
        if found.spec is not None:
            from gmi_registry.index import SpecCache
            from gmi_registry.proposal import proposal_findings

            others = _others(stack, found.spec, index, base, access)
            findings += proposal_findings(found.spec, others, SpecCache(cache_folder(cache_dir)))
        if audit:
            findings.append(audited(found, hubs, audit, audit_seed, device, cache_dir, quiet=quiet))
    document = _document(name, revision, proposal, found.entry, findings)
    if as_json:
        write_json(document)
    elif quiet:
        _write_name(found.entry)
    else:
        _write(findings)
    if not document["ok"]:
        raise typer.Exit(FAILED)


@app.command("verify-entry")
@handle_errors()
def verify_entry(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The entry: civitai:MODEL@VERSION, or hf:owner/name@DIGEST."
        ),
    ],
    registry: RegistryText = None,
    audit: Annotated[
        int,
        typer.Option("--audit", metavar="K", min=1, help="Draw the images of K prompts again."),
    ] = 3,
    audit_seed: AuditSeed = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose the change to verified.json.")
    ] = False,
    device: Device = None,
    token: Token = None,
    civitai_token: CivitaiToken = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw some images of an entry again; where they agree, add it to verified.json.

    Exits with 1 where they do not.
    """
    from gmi_registry.hubs.registry import Registry
    from gmi_registry.hubs.registry.entries import entry_of
    from gmi_registry.hubs.registry.review import Inspection, check_weights
    from gmi_registry.hubs.registry.submission import mark_verified, read_verified
    from gmi_registry.spec import read_spec

    _require_drawing(device)
    where: str | None = None
    access = HubAccess(cache_dir, token, None, registry, civitai_token)
    with ExitStack() as stack:
        hubs = Hubs(stack, access)
        ref = find_model(model, hubs[hub_named_in(model) or DEFAULT_HUB])
        if ref.revision is not None and not ref.is_entry:
            raise InputError(
                f"{ref} names a revision of the model, and entries are named by their weights",
                hint=f"gmi registry verify-entry {ref.without_revision}",
            )
        opened = stack.enter_context(Registry.open(access))
        opened.check_writable(ref, create_pr=create_pr)
        read_verified(opened.dataset, opened.head())  # what cannot be read cannot be added to
        place = opened.fetch_spec(ref).parent
        spec = read_spec(place, expected=ref, follow_links=True)
        entry = entry_of(spec.manifest.model)
        findings = list(check_weights(spec, entry, hubs))
        found = Inspection(tuple(findings), entry, spec)
        findings.append(audited(found, hubs, audit, audit_seed, device, cache_dir, quiet=quiet))
        passed = all(finding.status == "ok" for finding in findings)
        if passed:
            content = spec.manifest.to_bytes()
            where = mark_verified(opened.dataset, entry, content, create_pr=create_pr)
    if as_json:
        write_json(
            {
                "ok": passed,
                "registry": opened.dataset.id,
                "entry": str(entry),
                "digest": spec.digest,
                "where": where,
                "findings": [_finding(finding) for finding in findings],
            }
        )
    elif quiet:
        _write_name(entry)
    else:
        _write(findings)
        if where is not None:
            write_line(f"verified  {spec.digest} {where}")
    if not passed:
        raise typer.Exit(FAILED)


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
    from gmi_registry.errors import OfflineError, SpecNotFoundError
    from gmi_registry.hubs.registry import Registry
    from gmi_registry.index import ComparabilityKey
    from gmi_registry.index.stored import FolderFiles, StoredIndex

    key, place = ComparabilityKey.of(spec.manifest), cache_folder(access.cache_dir)
    if index is None and base is not None:
        return _entries(base, key)
    try:
        if index is not None:
            known = StoredIndex.open(FolderFiles(index), cache_dir=place)
        else:
            opened_registry = opened.enter_context(Registry.open(access))
            known = StoredIndex.open(opened_registry.aggregate(), cache_dir=place)
    except (SpecNotFoundError, OfflineError):
        if index is not None:
            raise
        return None
    opened.enter_context(known)
    return next((group for group in known.groups if group.key == key), None)


def _entries(base: Path, key: ComparabilityKey) -> ModelGroup | None:
    from gmi_registry.errors import GmiError
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
    return selections[0].stack if selections else None


def _require_drawing(device: str | None) -> None:
    """Raise where this machine cannot generate: that is no fault of anybody's specification."""
    from gmi_registry.device import require_device
    from gmi_registry.generation import require_packages

    require_packages()
    require_device(device)


def _document(
    name: str | None,
    revision: str | None,
    proposal: Proposal,
    entry: ModelRef | None,
    findings: list[Finding],
) -> dict[str, Any]:
    """What ``check --json`` prints; docs/registry.md says what each field means."""
    return {
        "ok": all(finding.status != "failed" for finding in findings),
        "registry": name,
        "revision": revision,
        "commit": proposal.commit,
        "author": proposal.author,
        "entry": None if entry is None else str(entry),
        "findings": [_finding(finding) for finding in findings],
    }


def _finding(finding: Finding) -> dict[str, str | None]:
    return {
        "check": finding.check,
        "status": finding.status,
        "detail": finding.detail,
        "hint": finding.hint,
    }


def _write(findings: list[Finding]) -> None:
    for finding in findings:
        write_line(f"{finding.check:9} {finding.status:8} {finding.detail}")
        if finding.hint and finding.status == "failed":
            write_line(f"{'':18} hint: {finding.hint}")


def _write_name(entry: ModelRef | None) -> None:
    if entry is not None:
        write_line(str(entry))
