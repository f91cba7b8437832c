"""What makes a plan fit that does not: the cheapest change of settings, and the least number of devices.

In:  a plan whose memory is not surely enough.
Out: `Remedy`: the cheapest plan for the same devices that surely fits, whatever it takes of precision, recomputation,
micro-batch, optimizer, offloading, sharding and parallel degrees; and the least devices in any layout for which no
state leaves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from profiler.errors import ProfError
from profiler.planner.plan import Plan, Request, make_plan
from profiler.planner.search import MICRO_BATCHES, Found, search
from profiler.planner.states import PRECISIONS

WORTH = 0.05  # of the device time: what one change more must save
MOST_DEVICES = 65536
HOST_BYTES_PER_DEVICE = 256e9  # what a common node's memory leaves for the states that one device offloads


@dataclass(frozen=True, slots=True)
class Way:
    """A change and the plan it gives, which surely fits."""

    change: str
    plan: Plan


@dataclass(frozen=True, slots=True)
class Remedy:
    """Ways to make a plan fit; None where none was found."""

    cheapest: Way | None  # on the same devices
    fewest_devices: Way | None  # with nothing offloaded, and the same optimizer


def remedy(plan: Plan) -> Remedy | None:
    """The ways to make a plan fit; None where it fits already, or where its activations are not known."""
    request, layout = plan.request, plan.layout
    if plan.memory.fits == "yes" or layout is None or request.model is None or plan.memory.activations is None:
        return None
    batch = int(layout.samples_per_step)
    asked = replace(request, global_batch=batch, micro_batch=int(layout.micro_batch))
    sizes = sorted({size for size in MICRO_BATCHES if size <= int(layout.micro_batch)} | {int(layout.micro_batch)})
    found: list[Found] = []
    for optimizer in _optimizers(request):
        changed = replace(asked, optimizer=optimizer)
        every = search(
            changed,
            precisions=_precisions(request),
            micro_batches=sizes,
            offloads=("none", "optimizer", "all"),
            keep=64,
        )
        found += every.found
    return Remedy(
        _cheapest(plan, asked, found), _fewest(plan, replace(asked, global_batch=request.global_batch), sizes)
    )


def change_text(before: Request, after: Request) -> str:
    """The flags that turn one request into the other: "--recompute full --micro-batch 1"."""
    words = [
        f"--{flag} {getattr(after, name)}"
        for flag, name in (
            ("gpus", "devices"), ("precision", "precision"), ("optimizer", "optimizer"), ("strategy", "strategy"),
            ("tp", "tensor"), ("pp", "pipeline"), ("recompute", "recompute"), ("offload", "offload"),
            ("micro-batch", "micro_batch"),
        )
        if getattr(after, name) != getattr(before, name) and not (name == "strategy" and _same_stage(before, after))
    ]  # fmt: skip
    if after.sequence_parallel and not before.sequence_parallel:
        words.insert(next((i + 1 for i, word in enumerate(words) if word.startswith("--tp")), len(words)), "--sp")
    return " ".join(words)


def _same_stage(before: Request, after: Request) -> bool:
    return {before.strategy, after.strategy} == {"fsdp", "zero3"}


def _optimizers(request: Request) -> list[str]:
    smaller = ["adam8bit"] if request.optimizer in ("adam", "adamw") else []
    return [request.optimizer, *smaller]


def _precisions(request: Request) -> list[str]:
    more: list[str] = []
    if request.precision in ("fp32", "tf32"):
        more = [name for name in ("bf16-mixed", "fp16-mixed") if PRECISIONS[name].peak in request.device.peak_flops]
    return [request.precision, *more[:1]]


def _cheapest(plan: Plan, asked: Request, found: Sequence[Found]) -> Way | None:
    """The least device time, where each change counts as `WORTH` of it."""
    order = sorted(
        found, key=lambda each: each.seconds_per_sample * (1 + WORTH * change_text(asked, each.request).count("--"))
    )
    return next((way for each in order if (way := _way(plan, asked, each)) is not None), None)


def _fewest(plan: Plan, asked: Request, sizes: Sequence[int]) -> Way | None:
    larger = {2**power * quarter // 4 for power in range(4, 17) for quarter in (4, 5, 6, 7)}
    for count in (each for each in sorted({*range(1, 16), *larger}) if each <= MOST_DEVICES):
        found = search(replace(asked, devices=count), micro_batches=sizes, keep=1).found
        if found and (way := _way(plan, asked, found[0])) is not None:
            return way
    return None


def _way(plan: Plan, asked: Request, found: Found) -> Way | None:
    request = replace(found.request, efficiency=plan.request.efficiency, global_batch=asked.global_batch)
    if plan.request.strategy == "fsdp" and request.strategy == "zero3":
        request = replace(request, strategy="fsdp")
    try:
        made = make_plan(request, count_devices=False)
    except ProfError:  # a batch that does not divide, a split that can't be
        return None
    if made.memory.fits != "yes" or (made.memory.host or 0.0) > HOST_BYTES_PER_DEVICE:
        return None
    return Way(change_text(asked, request), made)
