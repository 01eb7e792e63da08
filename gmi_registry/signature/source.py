"""Where the signature of a model's specification is, for a model on a hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol, runtime_checkable

from gmi_registry.errors import UnsupportedOperationError
from gmi_registry.hubs.protocol import Hub
from gmi_registry.signature.proof import SIGNATURE_NAME
from gmi_registry.spec import SPEC_DIR, ModelRef

__all__ = ["CarriesSignatures", "find_signature"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


@runtime_checkable
class CarriesSignatures(Protocol):
    """A hub that gives the two files of a specification apart from its signature."""

    def fetch_signature(self, ref: ModelRef) -> Path | None:
        """The model's ``gmi/spec.sig`` at its revision on this disk, or None where it has none."""
        ...


def find_signature(ref: ModelRef, folder: Path, hub: Hub) -> Path | None:
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
