"""Settings of the documentation: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import re
from pathlib import Path

project = "radiator"
author = "radiator contributors"
copyright = "2026, radiator contributors"
release = re.search(
    r'__version__ = "(.+)"', (Path(__file__).parent.parent / "radiator" / "__init__.py").read_text()
).group(1)  # type: ignore[union-attr]
version = release
exclude_patterns = ["_build"]
html_theme = "alabaster"
nitpicky = True
