"""``python -m zoo.gates``: measure the zoo against its gates; writes zoo/README.md and a sheet.

The zoo is worth measuring on when its styles can be told apart by the encoder, when a person
can see what each picture shows, and when Eq. 9 is neither always right nor at chance.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gmi_registry.encoders import load_encoder
from gmi_registry.encoders.protocol import Encoder
from gmi_registry.scoring.paper import paper_distances
from gmi_registry.scoring.ranking import mid_ranks
from zoo.build import BASE, ENCODER, HUB, MODELS
from zoo.cards import lora_name
from zoo.names import default_prompts, evaluation_prompts
from zoo.styles import STYLES

FOLDER = Path(__file__).parent
SHEET = FOLDER / "sheet.webp"
STEPS, GUIDANCE = 20, 2.0
EVALUATION_SEEDS = (0, 1)
PROBE_GATE, EQ9_LOW, EQ9_HIGH, SIZE_GATE = 0.85, 0.35, 0.90, 48.0
Floats = NDArray[np.floating[Any]]
