"""Record the labelled trainings and their cured twins, for the tests to judge again.

    python tests/recorded/record.py [NAME…]    all of tests/scenarios, or those named

A training whose summary is not what its label says is run again, up to three times; what is still wrong is told, and
its older recording stays.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scenarios"))
from attach import attach, side_by_side
from expected import is_silent_of_the_cured, is_silent_of_the_healthy, names_what_is_planted
from labels import Label, scenarios
from packing import SCENARIOS, pack

ATTEMPTS = 3
Check = Callable[[dict[str, Any]], None]


def record(label: Label) -> None:
    """The training and its twin. Raises AssertionError where one does not say what it should."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if label.healthy:
            _until_right(label, label.name, partial(is_silent_of_the_healthy, label), folder)
            return
        planted: Check = partial(names_what_is_planted, label)
        cured: Check = partial(is_silent_of_the_cured, label)
        pair = side_by_side(label, label, folder, "--cured")
        if not (pair and _packed(label.name, folder / "first", planted, pair.first)):
            _until_right(label, label.name, planted, folder)
        if not (pair and _packed(f"{label.name}-cured", folder / "second", cured, pair.second)):
            _until_right(label, f"{label.name}-cured", cured, folder, "--cured")


def _packed(name: str, folder: Path, check: Check, summary: dict[str, Any]) -> bool:
    try:
        check(summary)
    except AssertionError:
        return False
    pack(folder / "run", SCENARIOS, name)
    return True


def _until_right(label: Label, name: str, check: Check, folder: Path, *arguments: str) -> None:
    for attempt in range(ATTEMPTS):
        here = folder / f"{name}-{attempt}"
        here.mkdir()
        summary = attach(label, here, *arguments)
        if _packed(name, here, check, summary):
            return
    check(summary)


if __name__ == "__main__":
    wrong = 0
    for each in scenarios():
        if sys.argv[1:] and each.name not in sys.argv[1:]:
            continue
        try:
            record(each)
            print(each.name, flush=True)
        except AssertionError as error:
            wrong += 1
            print(f"{each.name}: {error}", file=sys.stderr, flush=True)
    sys.exit(wrong > 0)
