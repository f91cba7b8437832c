"""What the tests of the scenarios share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from attach import Pair, kept_promises, one_after_the_other, side_by_side
from labels import Label, scenarios


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Label], Pair | None]:
    """A planted training and its cured twin, run once for all tests; None where they need more cores.

    One after the other where they prove a rule's promise, else side by side.
    """
    pairs: dict[str, Pair | None] = {}
    promising = kept_promises()

    def run(label: Label) -> Pair | None:
        if label.name not in pairs:
            folder = tmp_path_factory.mktemp(label.name)
            if label.name in promising:
                pairs[label.name] = one_after_the_other(label, folder)
            else:
                pairs[label.name] = side_by_side(label, label, folder, "--cured")
        return pairs[label.name]

    return run


@pytest.fixture(scope="session")
def beside_another(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Label], dict[str, Any] | None]:
    """A healthy training's summary, where another one of one core ran beside it."""
    healthy = [label for label in scenarios() if label.healthy and label.cores == 1]
    found: dict[str, dict[str, Any] | None] = {}

    def run(label: Label) -> dict[str, Any] | None:
        others = [other for other in healthy if other.name not in found and other != label]
        if label.name not in found and label in healthy and others:
            pair = side_by_side(label, others[0], tmp_path_factory.mktemp(label.name))
            found[label.name], found[others[0].name] = (pair.first, pair.second) if pair else (None, None)
        return found.get(label.name)

    return run
