"""GET /api/models and its siblings: filters, order, pages."""

from __future__ import annotations

from typing import Any

from .call import Call
from .description import describe, tags_of
from .paging import page
from .reply import Refusal, Reply
from .repo import Commit, Repo

__all__ = ["list_repos"]

_ORDERS = {
    "createdAt": lambda repo, commit: repo.created,
    "downloads": lambda repo, commit: repo.downloads,
    "lastModified": lambda repo, commit: commit.date,
    "likes": lambda repo, commit: repo.likes,
    "trendingScore": lambda repo, commit: repo.likes,
}


def list_repos(call: Call, repo_type: str) -> Reply:
    """Repositories that match every filter; by id among equals, so that pages are stable."""
    found = [
        (repo, repo.find("main"))
        for (kind, _), repo in sorted(call.state.repos.items())
        if kind == repo_type and "refs/heads/main" in repo.refs and _may_see(call, repo)
    ]
    found = [pair for pair in found if _matches(call, *pair)]
    order = call.one("sort") or "trendingScore"
    if order not in _ORDERS:
        raise Refusal(400, f'"sort" must be one of [{", ".join(sorted(_ORDERS))}]')
    falling = call.one("direction") != "1"
    found.sort(key=lambda pair: _ORDERS[order](*pair), reverse=falling)
    expand = call.many("expand")
    detail = "full" if call.flag("full") else "listed"

    def show(pair: tuple[Repo, Commit]) -> dict[str, Any]:
        shown = describe(*pair, expand=expand, detail=detail)
        for flag, field in (("cardData", "cardData"), ("config", "config")):
            if call.flag(flag):
                shown |= describe(*pair, expand=[field])
        return shown

    return page(call, found, show)


def _may_see(call: Call, repo: Repo) -> bool:
    return not repo.private or bool(call.user and call.user.owns(repo.namespace))


def _matches(call: Call, repo: Repo, commit: Commit) -> bool:
    author, search, gated = call.one("author"), call.one("search"), call.one("gated")
    if author is not None and repo.namespace != author:
        return False
    if search is not None and search.casefold() not in repo.id.casefold():
        return False
    if gated is not None and bool(repo.gated) != (gated.lower() in ("1", "true")):
        return False
    wanted = [part for text in call.many("filter") for part in text.split(",") if part]
    pipeline = call.one("pipeline_tag")
    if pipeline is not None and commit.card.get("pipeline_tag") != pipeline:
        return False
    return not wanted or set(wanted) <= set(tags_of(commit))
