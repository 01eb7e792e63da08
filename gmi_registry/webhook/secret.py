"""The word by which a receiver knows the hub; it is compared, and never shown."""

from __future__ import annotations

import hashlib
import hmac
import os

from gmi_registry.errors import InputError
from gmi_registry.sanitize import add_secret

__all__ = ["SECRET_VARIABLE", "Secret"]

SECRET_VARIABLE = "GMI_WEBHOOK_SECRET"

_SHORTEST = 16
_LONGEST = 256


class Secret:
    """A secret that both sides have: 16 to 256 printable ASCII letters, without blanks.

    It goes through a header as it is, and a short one can be guessed by whoever may try often
    enough. Raises InputError for anything else.
    """

    def __init__(self, text: str, *, name: str = SECRET_VARIABLE) -> None:
        add_secret(text)
        if not (
            _SHORTEST <= len(text) <= _LONGEST and all("!" <= letter <= "~" for letter in text)
        ):
            raise InputError(
                f"the secret in {name} must be {_SHORTEST} to {_LONGEST} printable ASCII letters, "
                "without blanks",
                hint=_how_to_make(name),
            )
        self._text = text
        self._digest = hashlib.sha256(text.encode("ascii")).digest()

    @classmethod
    def of_environment(cls, name: str = SECRET_VARIABLE) -> Secret:
        """The secret in the variable ``name``. Raises InputError where there is none."""
        text = os.environ.get(name)
        if not text:
            raise InputError(f"{name} holds no secret", hint=_how_to_make(name))
        return cls(text, name=name)

    def matches(self, given: str) -> bool:
        """Whether ``given`` is the secret, in a time that tells nothing of either."""
        # Digests are of one length: comparing the texts would tell how long the secret is.
        found = hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()
        return hmac.compare_digest(found, self._digest)

    def reveal(self) -> str:
        """The text, for the one call that hands it to the hub."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"


def _how_to_make(name: str) -> str:
    return f"export {name}=$(openssl rand -hex 32), and keep it: both sides need the same"
