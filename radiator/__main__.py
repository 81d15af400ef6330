"""`python -m radiator` is the `radiator` command."""

from __future__ import annotations

from radiator.cli import main

if __name__ == "__main__":
    main()
