"""Operators of the CPU, as the deep window saw them, in milliseconds of the run's own steps.

Watching slows operators, short ones most: their shares of a stage are taken from the window, and the stage's time
from the steps that were not watched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from profiler.analysis.facts import Facts

NOT_SEEN = "no step was looked at operator by operator"
MODEL = ("forward", "backward")


def on_cpu(facts: Facts) -> bool:
    """Whether the host does the arithmetic, so that its operators tell where the time went."""
    return facts.machine.device == "cpu" and not facts.machine.asynchronous


def why_not_seen(facts: Facts) -> str:
    """Why there are no operators."""
    return facts.not_measured.get("operators", NOT_SEEN)


def operators_ms(facts: Facts, pattern: str, stages: Iterable[str] = MODEL) -> float:
    """Milliseconds a step in the operators whose names match, in these stages."""
    total = 0.0
    for name in stages:
        stage = facts.stages.get(name)
        rows = list(_rows(facts, name))
        seen_ms = sum(_number(row, "ms_per_step") for row in rows)
        if stage is not None and seen_ms > 0:
            matching = sum(_number(row, "ms_per_step") for row in rows if re.search(pattern, str(row.get("name"))))
            total += matching / seen_ms * stage.mean_ms
    return total


def calls(facts: Facts, pattern: str, stages: Iterable[str] = MODEL) -> float:
    """Calls a step of the operators whose names match, in these stages."""
    return sum(
        _number(row, "calls_per_step")
        for name in stages
        for row in _rows(facts, name)
        if re.search(pattern, str(row.get("name")))
    )


def _rows(facts: Facts, stage: str) -> Iterator[dict[str, Any]]:
    return (row for row in facts.operators if row.get("stage") == stage and row.get("device", "cpu") == "cpu")


def _number(row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0
