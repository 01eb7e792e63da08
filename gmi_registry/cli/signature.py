"""What ``gmi spec sign`` and ``gmi spec verify --signature`` ask of the command line."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmi_registry.errors import InputError, OfflineError, SpecError
from gmi_registry.place import SpecPlace, hub_at

if TYPE_CHECKING:
    from gmi_registry.signature import Identity, PrivateKey, PublicKey, SigstoreAccount

__all__ = [
    "IdentityName",
    "IdentityProvider",
    "PassphraseEnv",
    "PrivateKeyFile",
    "PublicKeyFile",
    "SignatureFile",
    "TokenEnv",
    "TrustConfig",
    "broken_finding",
    "expected_signer",
    "signature_file",
    "signature_finding",
    "signing_party",
]

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
    place: SpecPlace,
    chosen: Path | None,
    hub: str | None,
    *,
    token: str | None,
    offline: bool | None,
) -> Path | None:
    """The file with the signature where it is not beside the specification, fetched if need be."""
    if chosen is not None or place.expected is None:
        return chosen
    from gmi_registry.signature.signing import find_signature

    named = place.expected.hub if place.expected.hub != "local" else hub
    with hub_at(named, token=token, offline=offline, registry=place.registry) as opened:
        return find_signature(place.expected, place.folder, opened)


def signature_finding(
    place: SpecPlace, signature: Path | None, signer: PublicKey | Identity
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
        return _finding("failed", error.message, error.hint)
    return _finding("ok", f"signed by {signer}", None)


def broken_finding() -> dict[str, str | None]:
    """For a specification that has failed already: its own line says why."""
    return _finding("failed", "not judged, since the specification is broken", None)


def _finding(status: str, detail: str, hint: str | None) -> dict[str, str | None]:
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
