"""Where the loopback hub and the tiny models are."""

from __future__ import annotations

import sys
from pathlib import Path

for _neighbour in ("", "cli", "encoders", "generation", "hubs"):
    sys.path.append(str(Path(__file__).parents[1] / _neighbour))
