"""What the paper reports, to stand beside a run: other models, other prompts, the same protocol.

Source: "You Only Submit One Image to Find the Most Suitable Generative Model". Sixteen Stable
Diffusion models, 55 default prompts, 2,880 tasks. Accuracies lie in 0..1, ranks in 1..16. Methods
are called as in :mod:`benchmarks.paper.methods`. Table 7 is missing: its figures are not in the
text of the paper that this project has. Tables of another number of models are not comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

MODELS = 16
"""How many models the paper's tables are about."""

TABLE_1: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "download": (0.062, 0.125, 0.188, 0.250, 0.312, 0.375, 0.438, 0.500),
        "rkme-basic": (0.062, 0.125, 0.188, 0.250, 0.312, 0.375, 0.438, 0.500),
        "rkme-clip": (0.419, 0.576, 0.688, 0.770, 0.832, 0.870, 0.905, 0.934),
        "paper": (0.455, 0.614, 0.734, 0.812, 0.863, 0.899, 0.922, 0.943),
    }
)
"""Top-1 to top-8 accuracy."""

TABLE_2: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "download": (0.062, 0.125, 8.500),
        "rkme-basic": (0.062, 0.125, 8.500),
        "rkme-clip": (0.419, 0.576, 3.130),
        "rkme-concat": (0.433, 0.602, 2.938),
        "paper": (0.455, 0.614, 2.852),
    }
)
"""Top-1 and top-2 accuracy, and the mean rank."""

TABLE_4: Mapping[int, tuple[float, ...]] = MappingProxyType(
    {
        1: (0.455, 0.614, 0.734, 0.812),
        2: (0.578, 0.743, 0.840, 0.908),
        3: (0.658, 0.791, 0.883, 0.950),
        4: (0.709, 0.854, 0.929, 0.969),
        5: (0.755, 0.873, 0.946, 0.979),
    }
)
"""Images a query to top-1 to top-4 accuracy of Eq. 9."""

TABLE_5: Mapping[int, tuple[float, ...]] = MappingProxyType(
    {
        1: (0.455, 0.614, 0.734, 0.812),
        2: (0.442, 0.609, 0.729, 0.810),
        3: (0.460, 0.617, 0.732, 0.808),
    }
)
"""Split of the *default* prompts to top-1 to top-4 accuracy of Eq. 9: all 55, then two halves."""

TABLE_6: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "size-1": (0.434, 0.592, 0.707, 0.789),
        "paper": (0.455, 0.614, 0.734, 0.812),
    }
)
"""Top-1 to top-4 accuracy."""
