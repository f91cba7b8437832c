"""Requests that several tests start from."""

from __future__ import annotations

from typing import Any

from profiler.planner.catalogue import known_device, known_model
from profiler.planner.plan import Plan, Request, make_plan


def planned(model: str = "gpt3-175b", gpu: str = "a100-80gb", devices: int = 1, **options: Any) -> Plan:
    """The plan of a catalogue's model on a catalogue's device."""
    return make_plan(Request(known_model(model), known_device(gpu), devices, **options))
