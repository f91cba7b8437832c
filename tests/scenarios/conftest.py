"""What the tests of the scenarios share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from attach import Pair, side_by_side
from labels import Label


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Label], Pair | None]:
    """A planted training and its cured twin, run side by side once for all tests; None where they need more cores."""
    pairs: dict[str, Pair | None] = {}

    def run(label: Label) -> Pair | None:
        if label.name not in pairs:
            pairs[label.name] = side_by_side(label, tmp_path_factory.mktemp(label.name))
        return pairs[label.name]

    return run
