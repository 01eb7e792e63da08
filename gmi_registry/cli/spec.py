"""``gmi spec``: show a specification, check it, sign it, or compare two."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.options import (
    AsJson,
    OptionalHubText,
    SpecAccessOptions,
    command,
    new_app,
)
from gmi_registry.cli.output import (
    FAILED,
    fields_of,
    write_findings,
    write_json,
    write_line,
    write_message,
    write_pairs,
)
from gmi_registry.cli.publish import base_words, recipe_words
from gmi_registry.errors import GmiError, InputError, OfflineError, SpecError
from gmi_registry.hubs.open import HubAccess, SpecFolder, find_spec, opened_hub
from gmi_registry.report.figures import number

if TYPE_CHECKING:
    from gmi_registry.report.difference import Neighbour
    from gmi_registry.signature import Identity, PrivateKey, PublicKey, SigstoreAccount
    from gmi_registry.spec import DescribedModel, Finding, GenerationRecipe, Spec, WeightFile
    from gmi_registry.spec.diff import SpecDiff

app = new_app("Show specifications, check them, sign them, compare two.")

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder that holds gmi/, a model such as hf:owner/name, or its page's address.",
    ),
]
TrustConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The trust configuration of another Sigstore than the public one."
    ),
]


# ------------------------------------------------------------------ show


@command(app)
def show(
    model: Model,
    hub: OptionalHubText = None,
    *,
    access: SpecAccessOptions,
    as_json: AsJson = False,
) -> None:
    """Show what a specification says."""
    place = find_spec(model, hub, access.access)
    spec = place.read()
    found = place.model
    if as_json:
        write_json({"digest": spec.digest, "found_at": found, "manifest": spec.manifest})
        return
    pairs = _described(spec)
    if found is not None and found.id != spec.manifest.model.id:
        pairs.insert(0, ("found at", f"{found}, which is the model's present name"))
    write_pairs(pairs)


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


# ------------------------------------------------------------------ verify


@dataclass(frozen=True)
class SignerOptions:
    """Who should have signed, and where the signature is."""

    signature: Annotated[
        bool,
        typer.Option("--signature", help="Check the signature too: with --key, or --identity."),
    ] = False
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="PUBLIC_KEY", help="The PEM file with the public key of the expected signer."
        ),
    ] = None
    identity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Instead of a key: the e-mail or workflow address that Sigstore should vouch for.",
        ),
    ] = None
    identity_provider: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The address of the OpenID provider that vouches for this identity.",
        ),
    ] = None
    trust_config: TrustConfig = None
    signature_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Check this signature instead of gmi/spec.sig."),
    ] = None

    def signer(self, *, offline: bool) -> PublicKey | Identity | None:
        """The expected signer, None where nobody asks. Raises InputError where it is not clear."""
        provider, trust = self.identity_provider, self.trust_config
        named = (self.identity, provider, trust)
        if not self.signature and not any((self.key, self.signature_file, *named)):
            return None
        from gmi_registry.signature import Identity, PublicKey

        if self.key is not None and named == (None, None, None):
            return PublicKey.read(self.key)
        if self.key is not None or self.identity is None or provider is None:
            raise InputError(
                "a signature is checked against one signer: a key, or an identity and its provider",
                hint="add --key PUBLIC_KEY, or --identity NAME --identity-provider URL",
            )
        if offline and trust is None:
            raise OfflineError(
                "the keys that Sigstore trusts come over the network, which is switched off",
                hint="leave out --offline, or add --trust-config FILE",
            )
        return Identity(self.identity, provider, trust)


@command(app)
def verify(
    model: Model,
    hub: OptionalHubText = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Do not read the model's own weight files.")
    ] = False,
    *,
    expected: SignerOptions,
    access: SpecAccessOptions,
    as_json: AsJson = False,
) -> None:
    """Check both files, the preview, and the weight files that they describe.

    A signature says who made the files, not whether they are true. Exits with 1 where a check
    failed.
    """
    from gmi_registry.spec import verify as verify_folder

    signer = expected.signer(offline=access.offline)
    place = find_spec(model, hub, access.access)
    findings = verify_folder(
        place.folder,
        expected=place.expected,
        own_weights=place.own_weights,
        follow_links=place.follow_links,
        weights=not no_weights,
    )
    if signer is not None:
        file = _signature_file(place, expected.signature_file, hub, access.access)
        broken = any(it.status == "failed" for it in findings[:2])
        findings.append(_signature_finding(place, file, None if broken else signer))
    failed = any(it.status == "failed" for it in findings)
    if as_json:
        write_json({"ok": not failed, "findings": findings})
    else:
        write_findings(findings)
    if failed:
        raise typer.Exit(FAILED)


def _signature_file(
    place: SpecFolder, chosen: Path | None, hub: str | None, access: HubAccess
) -> Path | None:
    """The file with the signature where it is not beside the specification, fetched if need be."""
    if chosen is not None or place.expected is None:
        return chosen
    from gmi_registry.signature.signing import find_signature

    named = place.expected.hub if place.expected.hub != "local" else hub
    with opened_hub(named, replace(access, registry=place.registry)) as opened:
        return find_signature(place.expected, place.folder, opened)


def _signature_finding(
    place: SpecFolder, signature: Path | None, signer: PublicKey | Identity | None
) -> Finding:
    """``signer`` is None for a broken specification, whose own line says why."""
    from gmi_registry.signature import verify_signature
    from gmi_registry.spec import Finding

    if signer is None:
        return Finding("signature", "failed", "not checked, since the specification is broken")
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
        return Finding("signature", "failed", error.message, error.hint)
    return Finding("signature", "ok", f"signed by {signer}")


# ------------------------------------------------------------------ sign


@dataclass(frozen=True)
class SigningOptions:
    """What signs: a key, or an account of Sigstore."""

    key: Annotated[
        Path | None,
        typer.Option(metavar="PRIVATE_KEY", help="The PEM file with your elliptic curve key."),
    ] = None
    passphrase_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The environment variable with the key's passphrase; without it you are asked "
            "for the passphrase.",
        ),
    ] = None
    sigstore: Annotated[
        bool,
        typer.Option(
            "--sigstore",
            help="Instead of a key: log in, and enter your identity into a public log.",
        ),
    ] = False
    identity_token_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The environment variable with the identity token for Sigstore; else it is asked "
            "for.",
        ),
    ] = None
    trust_config: TrustConfig = None

    def party(self, folder: str) -> PrivateKey | SigstoreAccount:
        """The key, with its passphrase from the variable or the person, or the account.

        Raises InputError where neither or both are named, or what is named cannot be used.
        """
        if (self.key is None) != self.sigstore:
            raise InputError(
                "a specification is signed with a key, or by way of Sigstore",
                hint=f"gmi spec sign {shlex.quote(folder)} --key PRIVATE_KEY",
            )
        from gmi_registry.signature import PrivateKey, SigstoreAccount

        if self.key is None:
            token = _variable(self.identity_token_env, "--identity-token-env")
            return SigstoreAccount(token, self.trust_config)
        passphrase = _variable(self.passphrase_env, "--passphrase-env")
        if passphrase is None and PrivateKey.needs_passphrase(self.key) and sys.stdin.isatty():
            passphrase = typer.prompt(f"Passphrase of {self.key}", hide_input=True, err=True)
        return PrivateKey.read(self.key, passphrase)


def _variable(name: str | None, option: str) -> str | None:
    value = None if name is None else os.environ.get(name)
    if name is not None and not value:
        # The name is not repeated: who mistakes its purpose puts the secret itself there.
        raise InputError(
            f"the environment variable that {option} names is not set, or is empty",
            hint="name the variable, not what is in it, and export it in the same shell",
        )
    return value


@command(app)
def sign(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder that holds gmi/, on your own disk.")
    ],
    *,
    signing: SigningOptions,
    as_json: AsJson = False,
) -> None:
    """Sign a specification; the signature is gmi/spec.sig beside it.

    Needs the extra gmi-registry[sign].
    """
    if not Path(folder).is_dir():
        raise InputError(
            f"{folder!r} is not a folder, and only what is on your own disk can be signed",
            hint="gmi-publish MODEL --output DIR, then gmi spec sign DIR",
        )
    from gmi_registry.signature import sign_spec

    party = signing.party(folder)
    if signing.sigstore:
        write_message("Sigstore enters your identity and this signature into a public log for good")
    target, signer = sign_spec(find_spec(folder).folder, party)
    if as_json:
        write_json({"signature": target, "signer": str(signer)})
    else:
        write_pairs([("signature", str(target)), ("signed by", str(signer))])


# ------------------------------------------------------------------ diff

_FIELDS_SHOWN = 40
_SHIFTS_SHOWN = 5


@command(app)
def diff(
    old: Annotated[
        str,
        typer.Argument(
            metavar="OLD",
            help="As MODEL of the other commands. Without NEW it is the new one, and is compared "
            "with the one that it replaced.",
        ),
    ],
    new: Annotated[str | None, typer.Argument(metavar="[NEW]", help="Likewise.")] = None,
    hub: OptionalHubText = None,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="Do not look on --hub for another model to compare with."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page with pictures of the prompts that moved most."
        ),
    ] = None,
    *,
    access: SpecAccessOptions,
    as_json: AsJson = False,
) -> None:
    """Compare two specifications, field by field and by their images.

    How far the images moved is compared with how far they move when the same model generates them
    again, and with --hub also with the distance to the nearest other model there.
    """
    from gmi_registry.report.difference import difference_page, find_previous, write_difference
    from gmi_registry.spec.diff import diff_specs

    texts = [text for text in (old, new) if text is not None]
    places = [find_spec(text, hub, access.access) for text in texts]
    specs = [place.read() for place in places]
    previews: list[Path | None] = []
    if new is None:
        past = find_previous(specs[0], hub, access.access)
        specs.insert(0, past.spec)
        texts.insert(0, past.name)
        previews.append(past.preview)
    before, after = specs
    found = diff_specs(before, after)
    neighbour = None
    if hub is not None and not alone and found.movement is not None and not found.identical:
        neighbour = _neighbour(after, places[-1], hub, access.access)
    if html is not None:
        previews += [_preview(place, hub, access.access) for place in places]
        page = difference_page(
            found,
            before,
            after,
            names=(texts[0], texts[1]),
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
        # The difference itself is known: this is one thing less to compare it with.
        write_message(f"no other model to compare with: {error.message}")
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
    moved = found.movement
    return {
        "old": found.old_digest,
        "new": found.new_digest,
        **fields_of(found, "identical fields incomparable mmd2"),
        "movement": None
        if moved is None
        else fields_of(moved, "verdict unordered chance halves seeds mean_share"),
        "nearest_other": neighbour,
        "prompt_shifts": [fields_of(it, "prompt index shift share") for it in found.prompt_shifts],
    }
