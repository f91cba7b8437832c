"""Tests of the analysis use the tape builder that lies with the tests of the record."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "record"))
