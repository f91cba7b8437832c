"""Sentences that the terminal and the page share."""

from __future__ import annotations

from collections.abc import Callable

from profiler.planner.alternatives import Alternative
from profiler.planner.plan import Plan
from profiler.planner.quantity import bytes_text, count_text, duration_text, money_text
from profiler.planner.remedy import Remedy, Way

BOUND = {
    "compute": "arithmetic",
    "memory-bandwidth": "memory bandwidth",
    "communication": "the network",
    "data-loading": "data loading",
    "host-overhead": "the host, which launches operators",
}
FIT = {"yes": "fits", "no": "does not fit", "unsure": "may fit"}


def title(plan: Plan) -> str:
    """What is planned: "GPT-3 175B on 1,024 x NVIDIA A100 SXM4 80 GB"."""
    model = plan.request.model
    name = model.name if model else f"{plan.request.flops:.3g} FLOPs"
    return f"{name} on {plan.request.devices:,} x {plan.request.device.name}"


def answers(plan: Plan, solution: Remedy | None = None) -> list[tuple[str, str]]:
    """The three questions and their answers, a sentence each.

    A plan that does not fit has no time and no cost: those of the change that makes it fit are told, and its own only
    as what they would be.
    """
    long, cost = time_sentence(plan), cost_sentence(plan)
    way = solution.cheapest or solution.fewest_devices if solution else None
    if plan.memory.fits == "no":
        whole, step, usd = plan.time.seconds, plan.time.step_s, plan.cost.usd
        if whole is not None or step is not None:
            own = duration_text(whole) if whole is not None else f"{duration_text(step)} a step"
            long = f"{_changed(way, time_sentence)}Not as asked; if it fitted, {own}."
        if usd is not None:
            cost = f"{_changed(way, cost_sentence)}Not as asked; if it fitted, {money_text(usd)}."
    return [
        ("Will it fit?", f"{fit_sentence(plan)}{_way_sentence(plan, solution)}"),
        ("How long?", long),
        ("What will it cost?", cost),
    ]


def _changed(way: Way | None, sentence: Callable[[Plan], str]) -> str:
    return "" if way is None else f"With {way.change}: {sentence(way.plan)} "


def _way_sentence(plan: Plan, solution: Remedy | None) -> str:
    if solution is None:
        return ""
    cheapest, fewest = solution.cheapest, solution.fewest_devices
    if cheapest is not None:
        host = cheapest.plan.memory.host
        there = f" ({bytes_text(host)} of each device's states go to the host's memory)" if host else ""
        return f" The cheapest way to make it surely fit: {cheapest.change}{there}."
    if fewest is not None:
        return f" No setting that was tried makes it surely fit on {devices_text(plan)}; this does: {fewest.change}."
    return " No setting and no number of devices that was tried makes it surely fit."


def devices_text(plan: Plan) -> str:
    """ "1 device", "8 devices"."""
    return f"{plan.request.devices:,} device{'s' if plan.request.devices > 1 else ''}"


def fit_sentence(plan: Plan) -> str:
    """Does it fit, with the margin and the doubt."""
    memory = plan.memory
    if plan.request.model is None:
        return "Not known: no model was given, only FLOPs."
    low, high = memory.per_device
    device = bytes_text(memory.device_bytes)
    if low is None or high is None:
        states = sum(value or 0.0 for name, value in memory.device_parts.items() if name != "activations")
        doubt = "more than the device has" if memory.fits == "no" else "activations are not known"
        return (
            f"{FIT[memory.fits].capitalize()}: states alone take {bytes_text(states)} of {device} per device; {doubt}."
        )
    span = bytes_text(low) if bytes_text(low) == bytes_text(high) else f"{bytes_text(low)} to {bytes_text(high)}"
    if memory.fits == "yes":
        tail = f"at least {bytes_text(memory.device_bytes - high)} are left"
    elif memory.fits == "no":
        tail = f"at least {bytes_text(low - memory.device_bytes)} too much"
    else:
        tail = "it depends on fragmentation and temporary buffers: measure a step, or make room"
    return f"{FIT[memory.fits].capitalize()}: a device needs {span} and has {device}; {tail}."


def least_sentence(plan: Plan) -> str | None:
    """The least device count, where one was looked for."""
    request, least = plan.request, plan.memory.least_devices
    if request.model is None:
        return None
    if plan.memory.activations is None:
        return "On how many devices it surely fits can't be said without its activations."
    if least is None:
        return (
            f"No number of devices makes it surely fit with {request.strategy}, tp {request.tensor}, pp "
            f"{request.pipeline}."
        )
    return f"The least number of devices on which it surely fits laid out like this: {least:,}."


def time_sentence(plan: Plan) -> str:
    """Time, its range, and what bounds it."""
    time = plan.time
    bound = f", bound by {BOUND[time.bound_by]}" if time.bound_by else ""
    step = "" if time.step_s is None else f"{duration_text(time.step_s)} a step"
    if time.seconds is None:
        if time.step_s is None:
            return "Not known: pass --tokens, --dataset-size or --flops."
        model = plan.request.model
        length = "--dataset-size" if model is not None and model.unit == "sample" else "--tokens or --dataset-size"
        return f"{step}{_span(time.step_range_s)}{bound}; pass {length} for the whole training."
    whole = f"{duration_text(time.seconds)}{_span(time.seconds_range)}"
    return f"{whole}{bound}{f'; {step}' if step else ''}."


def cost_sentence(plan: Plan) -> str:
    """Cost, its range, and energy."""
    cost, time = plan.cost, plan.time
    if time.device_hours is None:
        return "Not known without the length of the training."
    hours = (
        f"{time.device_hours:,.0f} device-hours" if time.device_hours >= 10 else f"{time.device_hours:.2g} device-hours"
    )
    energy = "" if cost.kwh is None else f", {energy_text(cost.kwh)}"
    if cost.usd is None:
        return f"{hours}{energy}; pass --price for dollars."
    around = ""
    if cost.usd_range and money_text(cost.usd_range[0]) != money_text(cost.usd_range[1]):
        around = f" ({money_text(cost.usd_range[0])} to {money_text(cost.usd_range[1])})"
    return f"{money_text(cost.usd)}{around}: {hours} at ${cost.price_per_device_hour:g}{energy}."


def energy_text(kwh: float) -> str:
    """Energy in the unit that fits."""
    if kwh >= 1e6:
        return f"{kwh / 1e6:,.2f} GWh"
    return f"{kwh / 1e3:,.1f} MWh" if kwh >= 1e3 else f"{kwh:.3g} kWh"


def utilisation_sentence(plan: Plan) -> str | None:
    """MFU and HFU apart."""
    if plan.time.mfu is None or plan.time.hfu is None:
        return None
    return f"MFU {plan.time.mfu:.1%}, HFU {plan.time.hfu:.1%} of the dense peak"


def memory_rows(plan: Plan) -> list[tuple[str, str, str]]:
    """Category, one replica before sharding, one device after it."""
    memory = plan.memory
    if plan.request.model is None:
        return []
    parts = memory.device_parts
    rows = [
        ("parameters", bytes_text(memory.parameters), bytes_text(parts["parameters"])),
        ("gradients", bytes_text(memory.gradients), bytes_text(parts["gradients"])),
        ("optimizer states", bytes_text(memory.optimizer), bytes_text(parts["optimizer"])),
        ("activations", bytes_text(memory.activations), bytes_text(parts["activations"])),
        ("buffers, context, slack", "", f"{bytes_text(memory.buffers[0])} to {bytes_text(memory.buffers[1])}"),
    ]
    low, high = memory.per_device
    known = "not known" if low is None or high is None else f"{bytes_text(low)} to {bytes_text(high)}"
    if memory.activations is None:
        rows.append(("sum without activations", bytes_text(memory.total), known))
    else:
        rows.append(("sum", bytes_text(memory.total), known))
    if memory.host:
        rows.append(("in the host's memory", "", bytes_text(memory.host)))
    return rows


def step_title(plan: Plan) -> str:
    """The heading of a step's terms."""
    return "One step, if it fitted" if plan.memory.fits == "no" else "One step"


def term_rows(plan: Plan) -> list[tuple[str, str, str]]:
    """Terms of the step: name, time, share."""
    step = plan.time.step_s
    if not step:
        return []
    rows = []
    for name, seconds in plan.time.terms_s.items():
        if name == "data-loading" and not _loading_is_known(plan):
            rows.append(("data loading", "not measured", ""))
        elif seconds > 0:
            label = BOUND.get(name, name.replace("communication, hidden", "the network, hidden behind arithmetic"))
            rows.append((label, duration_text(seconds), f"{seconds / step:.0%}"))
    return rows


def _loading_is_known(plan: Plan) -> bool:
    """Whether a loader was measured: by --loader, or by a run that had one."""
    calibration = plan.request.calibration
    own = calibration is not None and calibration.base.workers is not None and plan.request.efficiency is None
    return own or plan.request.loader_samples_per_s is not None


def alternative_cells(plan: Plan, other: Alternative) -> tuple[str, str, str, str]:
    """A change: its text, whether it fits, time, cost."""
    time = other.plan.time
    length = duration_text(time.seconds) if time.seconds is not None else ""
    if time.seconds is None and time.step_s is not None:
        length = f"{duration_text(time.step_s)} a step"
        if time.units_per_s and plan.time.units_per_s:
            length += f", {time.units_per_s / plan.time.units_per_s:.2f} x the throughput"
    cost = money_text(other.plan.cost.usd) if other.plan.cost.usd is not None else ""
    return other.change, FIT[other.fits], length, cost


def model_sentence(plan: Plan) -> str | None:
    """How large the model is, and where its description comes from."""
    model = plan.request.model
    if model is None:
        return None
    size = f"{count_text(model.parameters)} parameters"
    if model.trainable_parameters < model.parameters:
        size += f", {count_text(model.trainable_parameters)} of them trainable"
    return f"{size} ({model.source})"


def _span(around: tuple[float, float] | None) -> str:
    if around is None:
        return ""
    low, high = duration_text(min(around)), duration_text(max(around))
    return "" if low == high else f" ({low} to {high})"
