"""Packages that carelessly install a folder ``benchmarks`` of their own must not hide this one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
