"""The zoo's own page: its gates as measured, and a sheet of samples to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from zoo import autoencoder, base, encoder, lora
from zoo.names import HELD_OUT, default_prompts, evaluation_prompts, names
from zoo.styles import STYLES

ZOOM = 2
RUNS = {
    "autoencoder": autoencoder.PLAN.steps,
    "encoder": encoder.PLAN.steps,
    "base": base.PLAN.steps,
    "a LoRA": lora.PLAN.steps,
}


class Measured(Protocol):
    """What the page shows of a gate."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def passed(self) -> bool: ...


def write_page(
    folder: Path, gates: Sequence[Measured], more: Mapping[str, float], sheet: Image.Image
) -> None:
    """Write ``README.md`` and ``sheet.webp`` into ``folder``."""
    large = sheet.resize((sheet.width * ZOOM, sheet.height * ZOOM), Image.Resampling.NEAREST)
    large.save(folder / "sheet.webp", quality=80, method=6)
    shown = ", ".join(evaluation_prompts()[: sheet.width * len(STYLES) // sheet.height])
    lines = [
        "# The embedded zoo",
        "",
        f"Sixteen LoRAs on one base, one of them also merged into a single file. {len(names())}",
        f"names; {HELD_OUT} of them no LoRA has seen, and among those are the",
        f"{len(evaluation_prompts())} evaluation prompts. The default prompt set is",
        f"{len(default_prompts())} names that",
        "every LoRA was trained on. Pictures are 64x64. The encoder never saw a generated one.",
        "",
        "`nox -s zoo` rebuilds all weights from the icon packages; `nox -s zoo_report` measures",
        "and writes this page. The weights here were trained with this many steps: "
        + ", ".join(f"{part} {steps:,}" for part, steps in RUNS.items())
        + ".",
        "",
        "| gate | measured | from | to | |",
        "|---|---|---|---|---|",
        *(
            f"| {gate.name} | {gate.value:.3f} | {gate.low:g} | {gate.high:g} | "
            f"{'passed' if gate.passed else 'FAILED'} |"
            for gate in gates
        ),
        "",
        *(f"- {name}: {value:.3f}" for name, value in more.items()),
        "",
        f"Columns: {shown}. Rows: {', '.join(style.name for style in STYLES)}.",
        "",
        "![A row a model, a column a held-out prompt](sheet.webp)",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
