"""Reading the facts that a collection holds."""

from __future__ import annotations

from gmi_registry.errors import SpecFormatError
from gmi_registry.index.served.connection import Connection
from gmi_registry.index.served.facts import Facts, fact_ids
from gmi_registry.index.served.place import again

__all__ = ["stored_facts"]

_RECORDS = 4


def stored_facts(connection: Connection, collection: str) -> Facts | None:
    """The facts of a collection, by its own name or the alias that leads to it; None where there
    are none.

    Raises SpecFormatError or UnsupportedVersionError for facts that cannot be used, and as
    :meth:`~gmi_registry.index.served.connection.Connection.ask` does.
    """
    retrieve, address = connection.client.retrieve, connection.address
    records = connection.ask(retrieve, collection, fact_ids(0))
    if not records:
        return None
    own, parts = Facts.parts(records[0].payload, address)
    if collection != own and not own.startswith(f"{collection}--"):
        raise SpecFormatError(
            f"{address} holds an index under {collection!r} that says it is {own!r}",
            hint=again(address),
        )
    payloads: dict[str, object] = {}
    ids = fact_ids(parts)
    for start in range(0, len(ids), _RECORDS):
        # By the collection's own name: the alias may move between two requests.
        for record in connection.ask(retrieve, own, ids[start : start + _RECORDS]):
            payloads[str(record.id)] = record.payload
    return Facts.read([payloads.get(name) for name in ids], address)
