"""The same plan on other numbers of devices: what the page plots."""

from __future__ import annotations

from dataclasses import dataclass, replace

from profiler.errors import ProfError
from profiler.planner.plan import Plan, make_plan

STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
MOST_DEVICES = 65536


@dataclass(frozen=True, slots=True)
class Point:
    """The plan on one number of devices; None where it is not known."""

    devices: int
    days: float | None
    usd: float | None
    step_s: float | None
    high_bytes: dict[str, float | None]  # per device, by strategy; None also where the layout can't be


def over_devices(plan: Plan) -> list[Point]:
    """Powers of two of the plan's model-parallel group, around the planned count."""
    request = plan.request
    if request.model is None:
        return []
    group = request.tensor * request.pipeline * request.expert
    counts = {group * 2**power for power in range(17)} | {request.devices}
    wanted = sorted(
        count for count in counts if request.devices / 64 <= count <= min(MOST_DEVICES, request.devices * 16)
    )
    points = []
    for count in wanted:
        high: dict[str, float | None] = {}
        own: Plan | None = None
        for strategy in STRATEGIES:
            try:
                made = make_plan(replace(request, devices=count, strategy=strategy), count_devices=False)
            except ProfError:
                high[strategy] = None
                continue
            high[strategy] = made.memory.per_device[1]
            if strategy == request.strategy.replace("fsdp", "zero3"):
                own = made
        points.append(
            Point(
                devices=count,
                days=own.time.days if own else None,
                usd=own.cost.usd if own else None,
                step_s=own.time.step_s if own else None,
                high_bytes=high,
            )
        )
    return points
