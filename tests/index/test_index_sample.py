"""Which members the temperature is fitted to: nobody can choose to be one of them."""

from __future__ import annotations

import hashlib

from gmi_registry.index.groups import drawn_by_lot


def digests_of(names):
    return [hashlib.sha256(name.encode()).hexdigest() for name in names]


def test_the_same_members_in_any_order_give_the_same_draw():
    digests = digests_of(f"m{number}" for number in range(1000))
    drawn = {digests[row] for row in drawn_by_lot(digests, 64)}
    turned = digests[::-1]
    assert {turned[row] for row in drawn_by_lot(turned, 64)} == drawn
    assert len(drawn) == 64
    assert drawn_by_lot(digests, 1000).tolist() == list(range(1000))


def test_trying_many_digests_gets_nobody_drawn():
    """By order of digests all of these thirty would be drawn."""
    honest = digests_of(f"m{number}" for number in range(970))
    cheats = set(sorted(digests_of(f"cheat{number}" for number in range(30_000)))[:30])
    together = [*honest, *cheats]
    drawn = sum(together[row] in cheats for row in drawn_by_lot(together, 64))
    # Their share of the members, 30 of 1,000, would have 1.9 of 64 drawn.
    assert drawn <= 8
