"""Who stands behind a specification."""

from __future__ import annotations

from typing import Literal

__all__ = ["Trust", "trust_order"]

Trust = Literal["owner", "verified", "self-published"]
"""The model's owner, beside whose model it lies; a registry's maintainers, who drew some of its
images again; or whoever put it into the registry."""

_ORDER: dict[Trust | None, int] = {"verified": 0, "owner": 1, None: 1, "self-published": 2}


def trust_order(trust: Trust | None) -> int:
    """What sorts specifications by how much stands behind them, the best first.

    Those whose images were generated again come first: that is evidence, while everybody is the
    owner of some repository. None, of a folder of the user's own, counts as an owner's.
    """
    return _ORDER[trust]
