"""To sign a specification, to find the signature of one, and to check who signed it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from gmi_registry.atomic import flush_file, scratch_file
from gmi_registry.errors import (
    HubError,
    InputError,
    SpecError,
    SpecFormatError,
    UnsupportedOperationError,
)
from gmi_registry.hubs.files import read_plain
from gmi_registry.hubs.protocol import SearchableHub
from gmi_registry.signature.library import (
    Identity,
    PrivateKey,
    PublicKey,
    SigstoreAccount,
    Statement,
    check,
    make,
    signing_library,
)
from gmi_registry.spec import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    ModelRef,
    OwnWeights,
    Spec,
    encode_spec,
    read_spec,
)
from gmi_registry.spec.files import SIGNATURE_LIMIT, Links

_SIGN_AGAIN = "ask its author to sign again: gmi spec sign FOLDER --key KEY"


def verify_signature(
    directory: str | Path,
    by: PublicKey | Identity,
    *,
    signature: str | Path | None = None,
    expected: ModelRef | None = None,
    own_weights: OwnWeights | None = None,
    follow_links: Links = False,
) -> str:
    """Check that ``by`` signed the specification in ``directory``/gmi; returns its digest (hex).

    ``signature`` is the file with the signature, by default ``gmi/spec.sig``. ``expected``,
    ``own_weights`` and ``follow_links`` are as for :func:`read_spec`; a file that the caller names
    may be a link.

    It says who signed these bytes, and not whether they are true. Raises SpecError for a missing
    signature, one by somebody else, one of other files, and one that does not hold;
    SpecFormatError, which is one, for a file that is no signature; InputError, HubError and
    MissingExtraError as :func:`sign_spec`; and what read_spec raises.
    """
    signing_library()
    spec = read_spec(
        directory, expected=expected, own_weights=own_weights, follow_links=follow_links
    )
    own = Path(directory) / SPEC_DIR / SIGNATURE_NAME
    place = own if signature is None else Path(signature)
    content = _read(place, follow_links if signature is None else True)
    prove(signed_files(spec), content, by, place)
    return spec.digest


def signed_files(spec: Spec) -> dict[str, bytes]:
    """What a signature is of: name in ``gmi`` to content, byte for byte as on disk."""
    manifest, tensors = encode_spec(spec)
    return {MANIFEST_NAME: manifest, TENSORS_NAME: tensors}


def prove(
    contents: Mapping[str, bytes], signature: bytes, by: PublicKey | Identity, place: Path
) -> None:
    """Raise SpecError unless ``signature``, which lies at ``place``, is by ``by`` of ``contents``.

    HubError where Sigstore has to be asked, and does not answer.
    """
    statement = Statement.parse(signature, place)
    _require_signer(statement, by, place)
    outcome = check(contents, signature, by)
    actual = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if outcome == "holds" and statement.files == actual:
        return
    if outcome == "does not hold" or statement.files == actual:
        raise SpecError(
            f"{place} does not hold: it was changed, or somebody made it up", hint=_SIGN_AGAIN
        )
    # From here on it is known to be by whom it should be.
    if statement.files.keys() != actual.keys():
        named = ", ".join(sorted(statement.files)) or "nothing"
        raise SpecError(
            f"{place} is a signature of {named[:120]}, and not of {' and '.join(actual)}",
            hint=_SIGN_AGAIN,
        )
    changed = [name for name in actual if statement.files[name] != actual[name]]
    raise SpecError(
        f"{place} is by {by}, but of another specification, or this one was changed since: "
        f"{' and '.join(changed)} differ{'' if len(changed) > 1 else 's'} from what was signed",
        hint=_SIGN_AGAIN,
    )


def _require_signer(statement: Statement, by: PublicKey | Identity, place: Path) -> None:
    """Refuse what names somebody else already, so that the message can say whom."""
    named: object = statement.identity
    if statement.key is not None:
        named = f"the key {statement.key}"
        if isinstance(by, PublicKey) and statement.key == by.fingerprint:
            return
    elif statement.identity == by:
        return
    raise SpecError(
        f"{place} says that it is by {named}, and not by {by}",
        hint="check with its author whose signature to expect",
    )


def _read(place: Path, follow_links: Links) -> bytes:
    try:
        if follow_links is True:
            return read_plain(place.resolve(), SIGNATURE_LIMIT)
        return read_plain(place, SIGNATURE_LIMIT, follow_links, within=(SPEC_DIR,))
    except FileNotFoundError:
        raise SpecError(
            f"{place} is missing, so nobody has signed the specification",
            hint="gmi spec sign FOLDER --key KEY, if it is yours; else ask its author",
        ) from None
    except (HubError, OSError, RuntimeError) as error:  # the last two of a loop of links
        reason = error.message if isinstance(error, HubError) else f"{place} cannot be read"
        raise SpecFormatError(
            f"{reason}, so it is no signature", hint="put the file that its author made there"
        ) from error


_COMMIT = re.compile(r"[0-9a-f]{40}")


@runtime_checkable
class CarriesSignatures(Protocol):
    """A hub that gives the two files of a specification apart from its signature."""

    def fetch_signature(self, ref: ModelRef) -> Path | None:
        """The model's ``gmi/spec.sig`` at its revision on this disk, or None where it has none."""
        ...


def find_signature(ref: ModelRef, folder: Path, hub: SearchableHub) -> Path | None:
    """A file of the hub's: the signature of the specification in ``folder``/gmi, which it gave.

    None where it is beside the specification if it is anywhere. It is asked for at the commit of
    the specification where that is known, so that nothing which is pushed in between mixes the two.
    Raises HubError or OfflineError where the hub does not answer, UnsupportedOperationError where
    it carries no signatures.
    """
    if hub.name == "local" or (folder / SPEC_DIR / SIGNATURE_NAME).is_file():
        return None
    if not isinstance(hub, CarriesSignatures):
        raise UnsupportedOperationError(
            f"{ref}: signatures are not read from this hub",
            hint=f"download its {SPEC_DIR}/{SIGNATURE_NAME}, and add --signature-file FILE",
        )
    commit = folder.name if _COMMIT.fullmatch(folder.name) else ref.revision
    return hub.fetch_signature(ModelRef(ref.hub, ref.id, commit, ref.file))


def sign_spec(
    directory: str | Path, by: PrivateKey | SigstoreAccount
) -> tuple[Path, PublicKey | Identity]:
    """Sign the specification in ``directory``/gmi; returns ``gmi/spec.sig`` and who signed.

    Both files are read and checked first, as a stranger's would be, and the signature is verified
    before it takes the place of an older one. The preview is not signed. The files signed are
    those of the format alone, so the signature holds for every copy of them.

    Raises SpecError or SpecNotFoundError for a specification that cannot be used, InputError where
    the signature cannot be written, HubError where Sigstore does not sign, MissingExtraError
    without the extra ``sign``; everything is then as it was.
    """
    directory = Path(directory)
    contents = signed_files(read_spec(directory))
    content = make(contents, by)
    target = directory / SPEC_DIR / SIGNATURE_NAME
    signer: PublicKey | Identity
    if isinstance(by, PrivateKey):
        signer = by.public
    else:
        found = Statement.parse(content, target).identity
        if found is None:
            raise AssertionError("Sigstore signs with certificates")
        signer = Identity(found.name, found.provider, by.trust)
    prove(contents, content, signer, target)
    _replace(target, content)
    return target, signer


def _replace(target: Path, content: bytes) -> None:
    try:
        # Beside the folder, since everything in it is published.
        with scratch_file(target.parents[1]) as (stream, scratch):
            stream.write(content)
            flush_file(stream)
            stream.close()
            scratch.replace(target)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror or error}; nothing was changed",
            hint="choose a folder that you can write to, or free some space",
        ) from error
