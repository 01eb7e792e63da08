"""``python -m zoo.gates``: measure the zoo against its gates; writes zoo/README.md and a sheet.

The zoo is worth measuring on when its styles can be told apart by the encoder, when a person
can see what each picture shows, and when Eq. 9 is neither always right nor at chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
SHEET = FOLDER / "sheet.webp"
STEPS, GUIDANCE = 20, 2.0
EVALUATION_SEEDS = (0, 1)
PROBE_GATE, EQ9_LOW, EQ9_HIGH, SIZE_GATE = 0.85, 0.35, 0.90, 48.0
Floats = NDArray[np.floating[Any]]
