"""numpy's BLAS in a benchmark: kernels and threads are chosen, not the environment's."""

from __future__ import annotations

import argparse
import os
import sys

from threadpoolctl import ThreadpoolController

__all__ = ["add_kernels", "blas_kernels", "settle_blas"]


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """The option ``--kernels``."""
    parser.add_argument(
        "--kernels",
        metavar="CORE",
        help="those that numpy's BLAS has for this processor, as OPENBLAS_CORETYPE names it "
        "(Haswell: AVX2); without it, those for the processor that is there",
    )


def settle_blas(kernels: str | None, threads: int) -> None:
    """Returns where numpy's BLAS has these; elsewhere the command is started again, so that it has.

    OpenBLAS reads both from the environment, once, when numpy is imported; nothing else is asked
    for there. Raises SystemExit where it has no ``kernels`` of that name.
    """
    wanted = {"OPENBLAS_CORETYPE": kernels, "OPENBLAS_NUM_THREADS": str(threads)}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        others = {name: value for name, value in os.environ.items() if name not in wanted}
        chosen = {name: value for name, value in wanted.items() if value is not None}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], others | chosen)
    if kernels is not None and blas_kernels().casefold() != kernels.casefold():
        raise SystemExit(
            f"numpy's BLAS has taken its kernels for {blas_kernels()}, not for {kernels}: name one "
            "that it knows, such as Haswell, or leave --kernels out"
        )


def blas_kernels() -> str:
    """For which processor numpy's BLAS has its kernels."""
    known = ThreadpoolController().select(user_api="blas").info()
    return next((it["architecture"] for it in known if "architecture" in it), "unknown")
