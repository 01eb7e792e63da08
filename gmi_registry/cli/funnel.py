"""The one place where errors become exit codes.

0 done · 1 a known error · 2 wrong usage (typer's own) · 130 interrupted · 141 the reader of stdout
has gone, as other programs report it.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import ParamSpec

import typer

from gmi_registry.cli.screen import is_wanted, remark
from gmi_registry.errors import GmiError
from gmi_registry.sanitize import traceback_text

__all__ = ["funnel"]

P = ParamSpec("P")

FAILED = 1
INTERRUPTED = 130
READER_GONE = 141
READER_PREFIX = "gmi-reader-"
"""Names of the threads of :mod:`gmi_registry.threads`, which is too heavy to import here."""


def funnel(*, interrupted: str = "interrupted") -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Let a command end with one clear line and the right exit code, whatever happens in it.

    ``interrupted`` is what Ctrl-C prints. An error that is not a GmiError is a fault of this
    program: it passes through with its traceback.
    """

    def around(command: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                command(*args, **kwargs)
                sys.stdout.flush()
            except GmiError as error:
                if is_wanted("HF_DEBUG"):
                    sys.stderr.write(traceback_text(error))
                remark(f"error: {error.message}")
                if error.hint:
                    remark(f"hint: {error.hint}")
                raise typer.Exit(FAILED) from None
            except KeyboardInterrupt:
                remark(interrupted)
                _leave_stalled_readers()
                raise typer.Exit(INTERRUPTED) from None
            except BrokenPipeError:
                _forget_stdout()
                raise typer.Exit(READER_GONE) from None

        return run

    return around


def _leave_stalled_readers() -> None:
    # A thread that is still inside a library's code, waiting for a hub, may abort the interpreter
    # while it shuts down; and nothing is left to do but to end. Files are written whole or not.
    if any(thread.name.startswith(READER_PREFIX) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)


def _forget_stdout() -> None:
    # Python flushes stdout once more when it exits, and would complain then.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
