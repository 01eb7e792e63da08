"""Tokens for Xet storage, and what was put there.

The storage is a folder (``local://``), which hf_xet reads and writes without a server; the client
learns of it from the token's answer. One process at a time can have it open.
"""

from __future__ import annotations

from .call import Call
from .reply import Refusal, Reply
from .repo import Repo

__all__ = ["read_token", "write_token"]

_EXPIRY = 4102444800  # seconds since 1970; the year 2100


def read_token(call: Call, repo: Repo, revision: str = "main") -> Reply:
    call.state.open_gate(repo, call.user)
    repo.find(revision)
    return _token(call, "read")


def write_token(call: Call, repo: Repo, revision: str = "main") -> Reply:
    """Whoever may open a pull request gets one, with ``create_pr``."""
    if call.flag("create_pr"):
        call.state.writer(call.user)
    else:
        call.state.may_write(repo, call.user, repo.ref_of(revision) or "")
    return _token(call, "write")


def _token(call: Call, kind: str) -> Reply:
    if call.state.xet_dir is None:
        raise Refusal(404, "Xet storage is not enabled here")
    fields = {"casUrl": f"local://{call.state.xet_dir}", "exp": _EXPIRY, "accessToken": kind}
    return Reply.json(
        fields,
        X_Xet_Cas_Url=fields["casUrl"],
        X_Xet_Access_Token=kind,
        X_Xet_Token_Expiration=str(_EXPIRY),
    )
