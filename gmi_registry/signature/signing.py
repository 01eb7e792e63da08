"""Putting a signature beside a specification."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.atomic import flush_file, scratch_file
from gmi_registry.errors import InputError
from gmi_registry.signature.identity import Identity, SigstoreAccount
from gmi_registry.signature.key import PrivateKey, PublicKey
from gmi_registry.signature.library import make
from gmi_registry.signature.proof import SIGNATURE_NAME, prove, signed_files
from gmi_registry.signature.statement import Statement
from gmi_registry.spec import SPEC_DIR, read_spec

__all__ = ["sign_spec"]


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
            hint="choose a folder that you may write to, or free some space",
        ) from error
