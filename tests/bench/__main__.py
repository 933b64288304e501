"""`python tests/bench`: see cli.py."""

import sys
from pathlib import Path

# As a folder this runs without a package: make it one, and keep its files from hiding modules of the same names.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
