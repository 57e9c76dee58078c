"""Where things lie: the repository, and the data sets beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
"""Data sets of others, too large to be kept here. Tests that need one are skipped where it is missing."""
