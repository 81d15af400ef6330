"""The golden stores' tests borrow the simulated disk."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "store"):
    sys.path.insert(0, str(folder))
