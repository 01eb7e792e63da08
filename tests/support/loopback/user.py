"""People and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["User"]


@dataclass(frozen=True)
class User:
    """An account with one token. ``role`` is that of the token: ``read`` changes nothing.

    ``orgs`` are organisations in which this account may write.
    """

    name: str
    token: str
    orgs: tuple[str, ...] = ()
    role: Literal["read", "write"] = "write"

    def owns(self, namespace: str) -> bool:
        """Whether repositories of ``namespace`` are this account's own or of its organisations."""
        return namespace == self.name or namespace in self.orgs

    def whoami(self) -> dict[str, Any]:
        """The answer to /api/whoami-v2."""
        return {
            "type": "user",
            "id": self.name.encode().hex().ljust(24, "0")[:24],
            "name": self.name,
            "fullname": self.name,
            "isPro": False,
            "orgs": [
                {"type": "org", "name": org, "fullname": org, "roleInOrg": "write"}
                for org in self.orgs
            ],
            "auth": {
                "type": "access_token",
                "accessToken": {
                    "displayName": "loopback",
                    "role": self.role,
                    "createdAt": "2024-01-01T00:00:00.000Z",
                },
            },
        }
