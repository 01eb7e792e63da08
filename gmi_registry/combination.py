"""Which parts of a search go together. Light: the command line reads it before anything heavy."""

from __future__ import annotations

__all__ = ["ANY_SCORE", "NO_INTERROGATOR", "fault"]

ANY_SCORE = "default"
"""The score of a search that names none."""

NO_INTERROGATOR = "none"
"""The interrogator of a search that names none."""


def fault(
    *,
    images: int,
    prompt: str | None,
    like: str | None,
    not_like: int,
    style: str | None = None,
    interrogator: str = NO_INTERROGATOR,
    score: str = ANY_SCORE,
) -> str | None:
    """Why these parts make no search, in one line, or None where they do.

    ``images`` and ``not_like`` are numbers of pictures.
    """
    if like is not None:
        others = {
            "an IMAGE": images > 0,
            "--prompt": prompt is not None,
            "--not-like": not_like > 0,
            "--style": style is not None,
            "--interrogator": interrogator != NO_INTERROGATOR,
            "--score": score != ANY_SCORE,
        }
        named = [name for name, is_given in others.items() if is_given]
        if named:
            return f"--like asks for models near a model, and goes without {' and '.join(named)}"
        return None
    if images:
        return _score_fault(score, {"--not-like": not_like > 0, "--style": style is not None})
    if style is not None:
        return "--style says how an IMAGE like yours should look: name one, or use --prompt alone"
    if not_like:
        return "--not-like says what is not wanted: name an IMAGE of what is, too"
    if prompt is None:
        return "nothing to search with: name an IMAGE, or give --prompt TEXT or --like MODEL"
    if interrogator != NO_INTERROGATOR:
        return "--interrogator guesses what an IMAGE shows, and there is none: leave it out"
    if score != ANY_SCORE:
        return f"--score {score} measures from an IMAGE, and there is none: leave it out"
    return None


def _score_fault(score: str, weighed: dict[str, bool]) -> str | None:
    named = [name for name, is_given in weighed.items() if is_given]
    if not named or score == ANY_SCORE:
        return None
    go = "goes" if len(named) == 1 else "go"
    return f"{' and '.join(named)} {go} with the default score, not with --score {score}"
