"""``gmi spec``: show a specification, check it, sign it, or compare two."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.options import AsJson, Offline, OptionalHubText, RegistryText, Token, new_app
from gmi_registry.cli.output import (
    FAILED,
    handle_errors,
    write_json,
    write_line,
    write_message,
    write_pairs,
)
from gmi_registry.cli.publish import base_words, recipe_words
from gmi_registry.errors import GmiError, InputError, OfflineError, SpecError
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.open import opened_hub
from gmi_registry.hubs.resolve import SpecFolder, find_spec
from gmi_registry.report.numbers import number

if TYPE_CHECKING:
    from gmi_registry.report.difference import Neighbour
    from gmi_registry.signature import Identity, PrivateKey, PublicKey, SigstoreAccount
    from gmi_registry.spec import DescribedModel, Finding, GenerationRecipe, Spec, WeightFile
    from gmi_registry.spec.diff import Movement, SpecDiff

PublicKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="PUBLIC_KEY",
        help="The PEM file with the key of whom you expect to have signed.",
        show_default=False,
    ),
]
SignatureFile = Annotated[
    Path | None,
    typer.Option(
        "--signature-file",
        metavar="FILE",
        help="Check this signature instead of gmi/spec.sig.",
        show_default=False,
    ),
]
IdentityName = Annotated[
    str | None,
    typer.Option(
        "--identity",
        metavar="NAME",
        help="Instead of a key: the e-mail or workflow address that Sigstore should vouch for.",
        show_default=False,
    ),
]
IdentityProvider = Annotated[
    str | None,
    typer.Option(
        "--identity-provider",
        metavar="URL",
        help="Where that identity is known: the address of its OpenID provider.",
        show_default=False,
    ),
]
TrustConfig = Annotated[
    Path | None,
    typer.Option(
        "--trust-config",
        metavar="FILE",
        help="The trust configuration of another Sigstore than the public one.",
        show_default=False,
    ),
]
PrivateKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="PRIVATE_KEY",
        help="The PEM file with your elliptic curve key.",
        show_default=False,
    ),
]
PassphraseEnv = Annotated[
    str | None,
    typer.Option(
        "--passphrase-env",
        metavar="NAME",
        help="The environment variable with the key's passphrase; else it is asked for.",
        show_default=False,
    ),
]
TokenEnv = Annotated[
    str | None,
    typer.Option(
        "--identity-token-env",
        metavar="NAME",
        help="The environment variable with the identity token for Sigstore; else it is asked for.",
        show_default=False,
    ),
]


def expected_signer(
    key: Path | None,
    identity: str | None,
    provider: str | None,
    trust: Path | None,
    offline: bool,
) -> PublicKey | Identity:
    """Whoever should have signed. Raises InputError where that is nobody, or two."""
    from gmi_registry.signature import Identity, PublicKey

    if key is not None and identity is None and provider is None and trust is None:
        return PublicKey.read(key)
    if key is not None or identity is None or provider is None:
        raise InputError(
            "a signature is checked against one signer: a key, or an identity and its provider",
            hint="add --key PUBLIC_KEY, or --identity NAME --identity-provider URL",
        )
    if offline and trust is None:
        raise OfflineError(
            "whom Sigstore trusts at present is asked over the network, which is switched off",
            hint="leave out --offline, or add --trust-config FILE",
        )
    return Identity(identity, provider, trust)


def signature_file(
    place: SpecFolder, chosen: Path | None, hub: str | None, access: HubAccess
) -> Path | None:
    """The file with the signature where it is not beside the specification, fetched if need be."""
    if chosen is not None or place.expected is None:
        return chosen
    from gmi_registry.signature.signing import find_signature

    named = place.expected.hub if place.expected.hub != "local" else hub
    with opened_hub(named, replace(access, registry=place.registry)) as opened:
        return find_signature(place.expected, place.folder, opened)


def signature_finding(
    place: SpecFolder, signature: Path | None, signer: PublicKey | Identity
) -> dict[str, str | None]:
    """The outcome, in the shape of the other findings."""
    from gmi_registry.signature import verify_signature

    try:
        verify_signature(
            place.folder,
            signer,
            signature=signature,
            expected=place.expected,
            own_weights=place.own_weights,
            follow_links=place.follow_links,
        )
    except SpecError as error:
        return _signature_finding("failed", error.message, error.hint)
    return _signature_finding("ok", f"signed by {signer}", None)


def broken_finding() -> dict[str, str | None]:
    """For a specification that has failed already: its own line says why."""
    return _signature_finding("failed", "not judged, since the specification is broken", None)


def _signature_finding(status: str, detail: str, hint: str | None) -> dict[str, str | None]:
    return {"check": "signature", "status": status, "detail": detail, "hint": hint}


def signing_party(
    folder: str,
    key: Path | None,
    passphrase_env: str | None,
    sigstore: bool,
    token_env: str | None,
    trust: Path | None,
) -> PrivateKey | SigstoreAccount:
    """What signs: a key, its passphrase from the variable or the person, or an account.

    Raises InputError where that is nothing, or both, or cannot be used.
    """
    if (key is None) != sigstore:
        raise InputError(
            "a specification is signed with a key, or by way of Sigstore",
            hint=f"gmi spec sign {shlex.quote(folder)} --key PRIVATE_KEY",
        )
    from gmi_registry.signature import PrivateKey, SigstoreAccount

    if key is None:
        token = None if token_env is None else _variable(token_env, "--identity-token-env")
        return SigstoreAccount(token, trust)
    passphrase = None if passphrase_env is None else _variable(passphrase_env, "--passphrase-env")
    if passphrase is None and PrivateKey.needs_passphrase(key) and sys.stdin.isatty():
        passphrase = typer.prompt(f"Passphrase of {key}", hide_input=True, err=True)
    return PrivateKey.read(key, passphrase)


def _variable(name: str, option: str) -> str:
    value = os.environ.get(name)
    if not value:
        # The name is not repeated: who mistakes its purpose puts the secret itself there.
        raise InputError(
            f"the environment variable that {option} names is not set, or is empty",
            hint="name the variable, not what is in it, and export it in the same shell",
        )
    return value


_FIELDS_SHOWN = 40
_SHIFTS_SHOWN = 5


@handle_errors()
def diff(
    old: Annotated[
        str,
        typer.Argument(
            metavar="OLD",
            help="As MODEL of the other commands. Alone it is the new one, and is compared with "
            "the one that it replaced.",
        ),
    ],
    new: Annotated[
        str | None, typer.Argument(metavar="[NEW]", help="Likewise.", show_default=False)
    ] = None,
    hub: OptionalHubText = None,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="Look for no other model on --hub to hold the distance to."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write a page with pictures of the prompts that moved most.",
            show_default=False,
        ),
    ] = None,
    token: Token = None,
    registry: RegistryText = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Compare two specifications, field by field and by their images.

    How far the images moved is held against what drawing the same model again moves them, and with
    --hub against the distance to the nearest other model there.
    """
    from gmi_registry.report.difference import difference_page, write_difference
    from gmi_registry.spec.diff import diff_specs

    access = HubAccess(token=token, offline=offline or None, registry=registry)
    places = [find_spec(text, hub, access) for text in (old, new) if text is not None]
    specs = [place.read() for place in places]
    names = [text for text in (old, new) if text is not None]
    previews: list[Path | None] = []
    if new is None:
        from gmi_registry.report.difference import find_previous

        past = find_previous(specs[0], hub, access)
        specs.insert(0, past.spec)
        names.insert(0, past.name)
        previews.append(past.preview)
    before, after = specs
    found = diff_specs(before, after)
    neighbour = None
    if hub is not None and not alone and found.movement is not None and not found.identical:
        neighbour = _neighbour(after, places[-1], hub, access)
    if html is not None:
        previews += [_preview(place, hub, access) for place in places]
        page = difference_page(
            found,
            before,
            after,
            names=(names[0], names[1]),
            previews=(previews[0], previews[1]),
            neighbour=neighbour,
        )
        write_message(f"page written: {write_difference(page, html)}")
    if as_json:
        write_json(_diff_document(found, neighbour))
    else:
        _write_diff(found, neighbour)


def _neighbour(spec: Spec, place: SpecFolder, hub: str, access: HubAccess) -> Neighbour | None:
    from gmi_registry.report.difference import nearest_other

    try:
        return nearest_other(spec, place, hub, access)
    except GmiError as error:
        # What was asked for is the difference; this is one thing less to hold it against.
        write_message(f"no other model to hold it against: {error.message}")
        return None


def _preview(place: SpecFolder, hub: str | None, access: HubAccess) -> Path | None:
    from gmi_registry.spec import PREVIEW_NAME, SPEC_DIR

    beside = place.folder / SPEC_DIR / PREVIEW_NAME
    if beside.is_file() and (place.follow_links is True or not beside.is_symlink()):
        return beside
    if place.expected is None:
        return None
    named = place.expected.hub if place.expected.hub != "local" else hub
    try:
        with opened_hub(named, replace(access, registry=place.registry)) as opened:
            return opened.fetch_preview(place.expected)
    except GmiError as error:
        write_message(f"no contact sheet: {error.message}")
        return None


def _write_diff(found: SpecDiff, neighbour: Neighbour | None) -> None:
    from gmi_registry.report.difference import scales, verdict

    if found.identical:
        write_line(f"identical: both have digest {found.new_digest}")
        return
    for change in found.fields[:_FIELDS_SHOWN]:
        write_line(f"{change.path}: {_side(change.old)} -> {_side(change.new)}")
    if len(found.fields) > _FIELDS_SHOWN:
        write_line(f"... and {len(found.fields) - _FIELDS_SHOWN} more fields; --json has them all")
    if found.movement is None:
        write_line(f"images: not comparable, {found.incomparable}")
        return
    write_line(
        f"images: squared maximum mean discrepancy {number(found.movement.mmd2)} (0 is equal)"
    )
    for scale in scales(found.movement, neighbour):
        write_line(f"  {scale.share} of the distance of {number(scale.mmd2)}: {scale.label}")
    write_line(verdict(found))
    for shift in found.prompt_shifts[:_SHIFTS_SHOWN]:
        if shift.shift > 0:
            write_line(
                f"  moved by {number(shift.shift)} ({100 * shift.share:.0f} %): {shift.prompt}"
            )


def _side(value: object) -> str:
    return "absent" if value is None else str(value)


def _diff_document(found: SpecDiff, neighbour: Neighbour | None) -> dict[str, Any]:
    return {
        "old": found.old_digest,
        "new": found.new_digest,
        "identical": found.identical,
        "fields": [
            {"path": change.path, "old": change.old, "new": change.new} for change in found.fields
        ],
        "incomparable": found.incomparable,
        "mmd2": found.mmd2,
        "movement": None if found.movement is None else _movement(found.movement),
        "nearest_other": None
        if neighbour is None
        else {"model": neighbour.model, "title": neighbour.title, "mmd2": neighbour.mmd2},
        "prompt_shifts": [
            {
                "prompt": item.prompt,
                "index": item.index,
                "shift": item.shift,
                "share": item.share,
            }
            for item in found.prompt_shifts
        ],
    }


def _movement(moved: Movement) -> dict[str, Any]:
    return {
        "verdict": moved.verdict,
        "unordered": moved.unordered,
        "chance": moved.chance,
        "halves": moved.halves,
        "seeds": None
        if moved.seeds is None
        else {"within": moved.seeds.within, "across": moved.seeds.across},
        "mean_share": moved.mean_share,
    }


app = new_app("Look at specifications, check them, sign them, compare two.")

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder that holds gmi/, a model such as hf:owner/name, or its page's address.",
    ),
]


@app.command()
@handle_errors()
def show(
    model: Model,
    hub: OptionalHubText = None,
    token: Token = None,
    registry: RegistryText = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Show what a specification says."""
    access = HubAccess(token=token, offline=offline or None, registry=registry)
    place = find_spec(model, hub, access)
    spec = place.read()
    found = place.model
    if as_json:
        write_json(
            {
                "digest": spec.digest,
                "found_at": None if found is None else str(found),
                "manifest": spec.manifest.model_dump(mode="json"),
            }
        )
        return
    pairs = _described(spec)
    if found is not None and found.id != spec.manifest.model.id:
        pairs.insert(0, ("found at", f"{found}, which is what the model is called now"))
    write_pairs(pairs)


@app.command()
@handle_errors()
def verify(
    model: Model,
    hub: OptionalHubText = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Leave the model's own weight files unread.")
    ] = False,
    signature: Annotated[
        bool, typer.Option("--signature", help="Check as well who signed: --key, or --identity.")
    ] = False,
    key: PublicKeyFile = None,
    identity: IdentityName = None,
    identity_provider: IdentityProvider = None,
    trust_config: TrustConfig = None,
    chosen: SignatureFile = None,
    token: Token = None,
    registry: RegistryText = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Check both files, the preview, and the weight files they are bound to.

    A signature says who made the files, not whether they are true. Exits with 1 where a check
    failed.
    """
    from gmi_registry.spec import verify as verify_folder

    signer = None
    if signature or any((key, identity, identity_provider, trust_config, chosen)):
        signer = expected_signer(key, identity, identity_provider, trust_config, offline)
    access = HubAccess(token=token, offline=offline or None, registry=registry)
    place = find_spec(model, hub, access)
    findings = verify_folder(
        place.folder,
        expected=place.expected,
        own_weights=place.own_weights,
        follow_links=place.follow_links,
        weights=not no_weights,
    )
    rows = [_finding(finding) for finding in findings]
    if signer is not None:
        broken = any(row["status"] == "failed" for row in rows[:2])
        file = signature_file(place, chosen, hub, access)
        rows.append(broken_finding() if broken else signature_finding(place, file, signer))
    failed = any(row["status"] == "failed" for row in rows)
    if as_json:
        write_json({"ok": not failed, "findings": rows})
    else:
        for row in rows:
            write_line(f"{row['check']:9} {row['status']:8} {row['detail']}")
            if row["hint"] and row["status"] == "failed":
                write_line(f"{'':18} hint: {row['hint']}")
    if failed:
        raise typer.Exit(FAILED)


@app.command()
@handle_errors()
def sign(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder that holds gmi/, on your own disk.")
    ],
    key: PrivateKeyFile = None,
    passphrase_env: PassphraseEnv = None,
    sigstore: Annotated[
        bool,
        typer.Option(
            "--sigstore",
            help="Instead of a key: log in, and have your identity entered into a public log.",
        ),
    ] = False,
    identity_token_env: TokenEnv = None,
    trust_config: TrustConfig = None,
    as_json: AsJson = False,
) -> None:
    """Sign a specification, as gmi/spec.sig beside it.

    Needs the extra gmi-registry[sign].
    """
    if not Path(folder).is_dir():
        raise InputError(
            f"{folder!r} is not a folder, and only what lies on your own disk can be signed",
            hint="gmi-publish MODEL --output DIR, then gmi spec sign DIR",
        )
    from gmi_registry.signature import sign_spec

    by = signing_party(folder, key, passphrase_env, sigstore, identity_token_env, trust_config)
    if sigstore:
        write_message(
            "Sigstore enters your identity and this signature into a public log, for good"
        )
    target, signer = sign_spec(find_spec(folder).folder, by)
    if as_json:
        write_json({"signature": str(target), "signer": str(signer)})
    else:
        write_pairs([("signature", str(target)), ("signed by", str(signer))])


app.command()(diff)


def _described(spec: Spec) -> list[tuple[str, str]]:
    manifest = spec.manifest
    model, recipe = manifest.model, manifest.generation.recipe
    pairs = [
        ("model", str(model.ref)),
        ("title", model.title),
        ("kind", model.kind),
        ("base model", base_words(model.base_model or "none", model.base_origin)),
        ("tags", ", ".join(model.tags) or "none"),
        ("licence", model.licence or "not stated"),
        ("address", model.url or "none"),
        ("weights", _files(model.weights)),
        ("weights digest", model.weights_digest),
        *_base(model),
        ("format", f"{manifest.format.name} {manifest.format.version}"),
        ("digest", spec.digest),
        ("encoder", f"{manifest.encoder.name}/{manifest.encoder.pretrained}"),
        ("encoder id", manifest.encoder.id),
    ]
    for position, block in enumerate(manifest.prompt_sets):
        label = "prompts" if position == 0 else "own prompts"
        pairs.append((label, f"{block.name} {block.version}: {len(block.prompts)} prompts"))
    images, width = spec.image_embeddings.shape
    pairs += [
        ("images", f"{images}, {width} numbers each, seeds {_listed(recipe.seeds)}"),
        ("generated with", recipe_words(recipe)),
        *_partial(recipe),
        ("kernel", f"{manifest.kernel.name}, gamma {manifest.kernel.gamma:g}"),
        ("size", f"{manifest.tensors.size + len(manifest.to_bytes()):,} bytes"),
        ("replaces", manifest.previous or "none"),
        ("written by", f"{manifest.tool.name} {manifest.tool.version}"),
    ]
    return pairs


def _partial(recipe: GenerationRecipe) -> list[tuple[str, str]]:
    share = recipe.lora_partial
    if share is None:
        return []
    return [("partial LoRA", f"{share.applied} of {share.tensors} tensors are applied")]


def _base(model: DescribedModel) -> list[tuple[str, str]]:
    if model.base_weights is None:
        # Of a checkpoint nothing is missing; a LoRA without them is bound to its own file alone.
        return [] if model.kind == "checkpoint" else [("base weights", "not stated")]
    return [
        ("base weights", _files(model.base_weights)),
        ("base weights digest", model.base_weights_digest or ""),
    ]


def _files(weights: tuple[WeightFile, ...]) -> str:
    return ", ".join(f"{file.path} ({file.size:,} bytes)" for file in weights)


def _listed(seeds: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, seeds[:4]))
    return f"{shown} and {len(seeds) - 4} more" if len(seeds) > 4 else shown


def _finding(finding: Finding) -> dict[str, str | None]:
    return {
        "check": finding.check,
        "status": finding.status,
        "detail": finding.detail,
        "hint": finding.hint,
    }
