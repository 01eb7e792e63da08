"""Identities that Sigstore vouches for: who somebody is at a provider, instead of a key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gmi_registry.errors import InputError
from gmi_registry.sanitize import add_secret
from gmi_registry.signature.extra import signing_library
from gmi_registry.spec.fields import unprintable

__all__ = ["Identity", "SigstoreAccount", "certified"]

# Fulcio's extensions that name the provider; the newer holds a DER string, the older bare text.
_PROVIDER, _OLD_PROVIDER = "1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1"
_UTF8_STRING = 0x0C
_LONGEST = 500


@dataclass(frozen=True)
class Identity:
    """Whom a signature should be by: ``name``, as ``provider`` (an https address) knows them.

    ``name`` is an e-mail address, or the address of a workflow. ``trust`` is a file with
    Sigstore's trust configuration (ClientTrustConfig, JSON); None asks Sigstore for the present
    one over the network. Raises InputError where one of the two is empty.
    """

    name: str
    provider: str
    trust: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.name or not self.provider:
            raise InputError(
                "an identity is a name and the provider that knows it, and one is empty",
                hint="give --identity NAME and --identity-provider URL, as its owner states them",
            )

    def __str__(self) -> str:
        return f"{self.name}, known to {self.provider}"


@dataclass(frozen=True)
class SigstoreAccount:
    """What signs without a key: an identity token, or a login in the browser.

    ``token`` is an OpenID Connect token; None takes the one of the machine where it has one, as in
    a hosted workflow, and else opens the browser. ``trust`` as in :class:`Identity`. Sigstore
    enters each signature, and the identity with it, into a public log, for good.
    """

    token: str | None = field(default=None, repr=False)
    trust: Path | None = None

    def __post_init__(self) -> None:
        add_secret(self.token)


def certified(certificate: bytes) -> Identity | None:
    """Whom a certificate (DER) names; None where it names nobody in Sigstore's way.

    It is only what the certificate says: whether Sigstore issued it is not looked at here. Raises
    ValueError for what is no certificate.
    """
    signing_library()
    from cryptography import x509

    parsed = x509.load_der_x509_certificate(certificate)
    extensions = {item.oid.dotted_string: item.value for item in parsed.extensions}
    names = extensions.get(x509.SubjectAlternativeName.oid.dotted_string)
    if not isinstance(names, x509.SubjectAlternativeName):
        return None
    found: list[str] = [
        *names.get_values_for_type(x509.RFC822Name),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
    ]
    stated = (extensions.get(oid) for oid in (_PROVIDER, _OLD_PROVIDER))
    providers = [
        _text(item.value) for item in stated if isinstance(item, x509.UnrecognizedExtension)
    ]
    if len(found) != 1 or not providers or not all(map(_is_plain, (found[0], providers[0]))):
        return None
    return Identity(found[0], providers[0])


def _is_plain(text: str) -> bool:
    return 0 < len(text) <= _LONGEST and not unprintable(text)


def _text(value: bytes) -> str:
    short_string = len(value) >= 2 and value[0] == _UTF8_STRING and value[1] == len(value) - 2
    return (value[2:] if short_string else value).decode("utf-8")
