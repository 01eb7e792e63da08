"""What an author pastes into a model's description, so that its specification is found there."""

from __future__ import annotations

import re

from gmi_registry.errors import InputError
from gmi_registry.spec import ModelRef
from gmi_registry.spec.fields import unprintable

__all__ = ["description_snippet"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


def description_snippet(
    ref: ModelRef, spec_digest: str, where: str, *, air: str | None = None
) -> str:
    """A few lines of plain text, since Civitai keeps no files beside a model.

    ``spec_digest`` is the SHA-256 (hex) of ``spec.json``, ``where`` its address in the registry,
    ``air`` the version's own name (None: ``civitai:MODEL@VERSION``). Raises InputError for a
    version without a number, and for a digest, a name or an address that is none.
    """
    if ref.hub != "civitai" or ref.revision is None:
        raise InputError(f"{ref} is no version on Civitai", hint="name one: civitai:MODEL@VERSION")
    if not _SHA256.fullmatch(spec_digest):
        raise InputError(f"{spec_digest[:80]!r} is no SHA-256", hint="gmi spec show prints it")
    if not where.strip() or unprintable(where) or "<" in where:
        raise InputError(f"{where[:80]!r} is no place of a specification")
    if air is not None and ModelRef.parse(air) != ref:
        raise InputError(f"{air[:80]!r} is not the AIR of {ref}")
    return "\n".join(
        (
            "This model can be found by a picture (GMI specification).",
            f"Model: {air or ref}",
            f"Specification: {where}",
            f"SHA-256 of its spec.json: {spec_digest}",
            "",
        )
    )
