"""``gmi spec``: look at a specification, check it, sign it; to compare two is a module apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmi_registry.cli.difference import diff
from gmi_registry.cli.funnel import FAILED, funnel
from gmi_registry.cli.option import (
    AsJson,
    Offline,
    OptionalHubText,
    RegistryText,
    Token,
    new_app,
)
from gmi_registry.cli.publication import base_words, recipe_words
from gmi_registry.cli.screen import remark, write_json, write_line, write_pairs
from gmi_registry.cli.signature import (
    IdentityName,
    IdentityProvider,
    PassphraseEnv,
    PrivateKeyFile,
    PublicKeyFile,
    SignatureFile,
    TokenEnv,
    TrustConfig,
    broken_finding,
    expected_signer,
    signature_file,
    signature_finding,
    signing_party,
)
from gmi_registry.errors import InputError
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.resolve import find_spec

if TYPE_CHECKING:
    from gmi_registry.spec import DescribedModel, Finding, GenerationRecipe, Spec, WeightFile

__all__ = ["app"]

app = new_app("Look at specifications, check them, sign them, compare two.")

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder that holds gmi/, a model such as hf:owner/name, or its page's address.",
    ),
]


@app.command()
@funnel()
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
@funnel()
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
@funnel()
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
        remark("Sigstore enters your identity and this signature into a public log, for good")
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
