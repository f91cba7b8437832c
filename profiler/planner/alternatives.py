"""What one change would do: the plan with a single setting changed, and the most useful change first.

A change is useful when it makes a plan fit that did not; among those that fit, when it saves the most time
per dollar or the most time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from profiler.errors import ProfError
from profiler.planner.plan import Plan, Request, make_plan
from profiler.planner.remedy import Remedy
from profiler.planner.search import Findings, layout_text, search
from profiler.planner.states import PRECISIONS

FIT_RANK = {"yes": 0, "unsure": 1, "no": 2}


@dataclass(frozen=True, slots=True)
class Alternative:
    """One change and the plan it gives."""

    change: str
    plan: Plan

    @property
    def fits(self) -> str:
        """Whether the changed plan fits."""
        return self.plan.memory.fits


def alternatives(
    plan: Plan, findings: Findings | None = None, solution: Remedy | None = None, *, most: int = 8
) -> list[Alternative]:
    """The changes worth telling, the most useful first: where the plan does not fit, what makes it fit."""
    if plan.request.model is None:
        return []
    ways = [way for way in (solution.cheapest, solution.fewest_devices) if way] if solution else []
    told = [Alternative(way.change, way.plan) for way in ways]
    return [*told, *_others(plan, findings, {each.change for each in told})][:most]


def _others(plan: Plan, findings: Findings | None, told_already: set[str]) -> list[Alternative]:
    found = [Alternative(text, changed) for text, request in _changes(plan) if (changed := _tried(request)) is not None]
    if findings is not None and findings.found:
        best = findings.found[0]
        changed = _tried(best.request)
        same = {each.plan.time.step_s for each in found} | {plan.time.step_s}
        if changed is not None and changed.time.step_s not in same and not told_already:
            found.append(Alternative(f"the best layout found: {layout_text(best.request)}", changed))
    kept = sorted((each for each in found if _is_useful(plan, each)), key=lambda each: _usefulness(plan, each))
    told: list[Alternative] = []
    families: set[tuple[str, ...]] = set()
    for each in kept:
        # one of each kind of change: the degrees of tp and pp are variations of the same advice
        family = tuple(word for word in each.change.split() if word.startswith("--")) or (each.change,)
        if family not in families and each.change not in told_already:
            families.add(family)
            told.append(each)
    return told


def find_layouts(plan: Plan) -> Findings:
    """The search for the plan's device count, over precisions that its device has.

    A measured model's FLOPs are not known: layouts can't be told apart by their time, so none is called the best.
    """
    model = plan.request.model
    if model is not None and model.source.startswith("measured by"):
        return Findings(0, 0, (), None)
    own = plan.request.precision
    names = [own]
    if own in ("fp32", "tf32"):
        names += [
            name for name in ("bf16-mixed", "fp16-mixed") if PRECISIONS[name].peak in plan.request.device.peak_flops
        ][:1]
    return search(plan.request, precisions=names)


def _tried(request: Request) -> Plan | None:
    try:
        return make_plan(request, count_devices=False)
    except ProfError:  # an impossible combination is no alternative
        return None


def _changes(plan: Plan) -> list[tuple[str, Request]]:
    request, layout = plan.request, plan.layout
    assert layout is not None and request.model is not None
    made: list[tuple[str, Request]] = []
    peaks, shape = request.device.peak_flops, request.model.shape
    if request.precision in ("fp32", "tf32"):
        for name in ("bf16-mixed", "fp16-mixed"):
            if PRECISIONS[name].peak in peaks:
                made.append((f"--precision {name}", replace(request, precision=name)))
                break
    elif "fp8" in peaks and request.precision in ("bf16-mixed", "fp16-mixed") and shape is not None:
        made.append(("--precision fp8-mixed", replace(request, precision="fp8-mixed")))
    if shape is not None and request.model.counted is None:
        more = ["full"] if request.flash else ["selective", "full"]  # flash recomputes attention already
        made += [
            (f"--recompute {name}", replace(request, recompute=name)) for name in more if name != request.recompute
        ]
        if request.recompute != "none":
            made.append(("--recompute none", replace(request, recompute="none")))
        if not request.flash:
            made.append(("--flash", replace(request, flash=True)))
        made += _parallel(request)
    if request.optimizer in ("adam", "adamw"):
        made.append(("--optimizer adam8bit", replace(request, optimizer="adam8bit")))
    if request.devices // (request.tensor * request.pipeline) > 1:
        made += [
            (f"--strategy {name}", replace(request, strategy=name))
            for name in ("ddp", "zero1", "zero2", "zero3")
            if name != request.strategy and not (name == "zero3" and request.strategy == "fsdp")
        ]
    made += [
        (f"--offload {name}", replace(request, offload=name))
        for name in ("optimizer", "all")
        if name != request.offload
    ]
    micro = int(layout.micro_batch)
    batch = int(layout.samples_per_step)
    if micro >= 2:
        made.append((f"--micro-batch {micro // 2}", replace(request, micro_batch=micro // 2, global_batch=batch)))
    if layout.micro_batches >= 2:
        made.append((f"--micro-batch {micro * 2}", replace(request, micro_batch=micro * 2, global_batch=batch)))
    else:
        wider = replace(request, micro_batch=micro * 2, global_batch=2 * batch)
        made.append((f"--micro-batch {micro * 2} (a global batch of {2 * batch:,})", wider))
    doubled = request.devices * 2
    made.append((f"--gpus {doubled}", replace(request, devices=doubled)))
    if request.loader_samples_per_s is not None and plan.time.bound_by == "data-loading":
        rate = request.loader_samples_per_s * 2
        made.append(("a data loader twice as fast", replace(request, loader_samples_per_s=rate)))
    return made


def _parallel(request: Request) -> list[tuple[str, Request]]:
    made = []
    node = request.device.devices_per_node
    for tensor in (2, 4, 8):
        if tensor != request.tensor and tensor <= node:
            changed = replace(request, tensor=tensor, sequence_parallel=True)
            made.append((f"--tp {tensor} --sp", changed))
            if request.pipeline == 1:
                stages = 2 ** math.ceil(math.log2(max(2, request.devices / 64)))
                made += [
                    (
                        f"--tp {tensor} --sp --pp {pipeline} --strategy zero1",
                        replace(changed, pipeline=pipeline, strategy="zero1"),
                    )
                    for pipeline in (stages, stages * 2)
                ]
    return made


def _is_useful(plan: Plan, each: Alternative) -> bool:
    before, after = FIT_RANK[plan.memory.fits], FIT_RANK[each.fits]
    if after < before:
        return True
    if after > before:
        return False
    days, now = each.plan.time.days, plan.time.days
    step, own = each.plan.time.units_per_s, plan.time.units_per_s
    if days is not None and now is not None:
        return days < 0.98 * now
    if step is not None and own is not None:
        return step > 1.02 * own
    high, was = each.plan.memory.per_device[1], plan.memory.per_device[1]
    return before > 0 and high is not None and was is not None and high < 0.95 * was


def _usefulness(plan: Plan, each: Alternative) -> tuple[float, float, float]:
    """Smaller is more useful: fitting first, then time, then cost."""
    days = each.plan.time.days
    if days is None:
        rate = each.plan.time.units_per_s
        days = 1 / rate if rate else math.inf
    # more devices always shorten: weigh their time by their number
    days *= each.plan.request.devices / plan.request.devices
    usd = each.plan.cost.usd
    high = each.plan.memory.per_device[1] or math.inf
    return FIT_RANK[each.fits], days, usd if usd is not None else high
