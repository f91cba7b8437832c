"""Search over micro-batch, recomputation, precision, sharding and parallel degrees.

In:  a request, the device counts and recipes to try.
Out: the layouts that fit, fastest first, each with what it gives up. All candidates are evaluated as columns by the
same formulas that answer a single plan: a hundred thousand take well under two seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from profiler.planner.activations import FULL, NONE, SELECTIVE
from profiler.planner.architecture import Model
from profiler.planner.efficiency import published
from profiler.planner.layout import OFFLOADS, Layout, with_precision
from profiler.planner.memory import Memory, fits, memory
from profiler.planner.plan import Plan, Request, default_micro_batch, make_plan
from profiler.planner.quantity import column
from profiler.planner.states import known_optimizer, known_precision
from profiler.planner.timing import StepTime, step_time

MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
STRATEGY_NAMES = ("ddp", "zero1", "zero2", "zero3")
RECOMPUTE_NAMES = ("none", "selective", "full")
OFFLOAD_NAMES = tuple(OFFLOADS)


@dataclass(frozen=True, slots=True)
class Found:
    """One layout that fits, as a request that plans it, and what it gives up against the fastest."""

    request: Request
    seconds_per_sample: float
    device_high_bytes: float
    gives_up: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What the search saw."""

    candidates: int
    fitting: int
    found: tuple[Found, ...]  # fastest first
    least_devices: int | None  # among the counts tried


def search(
    request: Request,
    *,
    device_counts: Sequence[int] | None = None,
    precisions: Sequence[str] | None = None,
    micro_batches: Sequence[int] = MICRO_BATCHES,
    offloads: Sequence[str] = ("none",),
    keep: int = 5,
) -> Findings:
    """The fastest layouts that fit, for the request's model, optimizer and global batch."""
    model = request.model
    if model is None:
        return Findings(0, 0, (), None)
    counts = tuple(device_counts or (request.devices,))
    names = tuple(precisions or (request.precision,))
    groups = [
        (name, layout)
        for name in names
        if known_precision(name).peak in request.device.peak_flops
        and len((layout := candidates(model, request, counts, name, micro_batches, offloads)).devices)
    ]
    total = fitting = 0
    least: int | None = None
    found: list[tuple[float, float, Request]] = []
    for name, layout in groups:
        usage, time = memory(model, layout), _time(model, layout, request, name)
        good = np.flatnonzero(np.broadcast_to(fits(usage, request.device), layout.devices.shape) == 1)
        total, fitting = total + len(layout.devices), fitting + len(good)
        if len(good):
            smallest = int(layout.devices[good].min())
            least = smallest if least is None else min(least, smallest)
        found += _best(request, name, layout, usage, time, good, keep)
    found.sort(key=lambda entry: entry[0])
    return Findings(total, fitting, _told(found[:keep]), least)


def candidates(
    model: Model,
    request: Request,
    counts: Iterable[int],
    precision: str,
    micro_batches: Sequence[int],
    offloads: Sequence[str] = ("none",),
) -> Layout:
    """Every possible layout of those device counts, as columns."""
    shape = model.shape
    tensors = [t for t in (1, 2, 4, 8, 16) if shape and shape.heads % t == 0 and shape.ffn % t == 0] or [1]
    stages = [p for p in (1, 2, 4, 6, 8, 10, 12, 16, 24, 32, 35, 48, 64) if shape and p <= shape.layers] or [1]
    recompute: tuple[int, ...] = (NONE, SELECTIVE, FULL) if shape and model.counted is None else (NONE,)
    if request.flash and shape:
        recompute = (NONE, FULL)  # flash attention is selective recomputation already
    axes = np.meshgrid(
        np.array(sorted(set(counts)), float),
        np.array(tensors, float),
        np.array(stages, float),
        np.array((0, 1, 2, 3), float),
        np.array(sorted(set(micro_batches)), float),
        np.array(recompute, float),
        np.array([OFFLOADS[name] for name in offloads], float),
        indexing="ij",
    )
    devices, tensor, pipeline, zero, micro, again, offload = (axis.ravel() for axis in axes)
    data = devices / (tensor * pipeline)
    whole = default_micro_batch(model, None, 1) * int(devices.max())
    batch = float(request.global_batch or max(model.global_batch or 0, whole))
    possible = (devices % (tensor * pipeline) == 0) & ((zero < 2) | (pipeline == 1)) & ((zero == 0) | (data > 1))
    possible &= tensor <= request.device.devices_per_node
    possible &= micro * data <= batch
    if request.global_batch:
        possible &= batch % np.where(data >= 1, micro * np.maximum(data, 1), 1) == 0
    possible &= (pipeline == 1) | (np.ceil(batch / (micro * np.maximum(data, 1))) >= pipeline)
    rows = int(possible.sum())
    layout = Layout(
        devices=devices[possible],
        tensor=tensor[possible],
        pipeline=pipeline[possible],
        sequence_parallel=(tensor[possible] > 1).astype(float),
        zero=zero[possible],
        micro_batch=micro[possible],
        micro_batches=np.ceil(batch / (micro[possible] * data[possible])) if rows else micro[possible],
        recompute=again[possible],
        offload=offload[possible],
        flash=float(request.flash),
    )
    layout = with_precision(layout, known_precision(precision), known_optimizer(request.optimizer), request.device)
    return replace(layout, **{field.name: column(getattr(layout, field.name), rows) for field in fields(layout)})


def _time(model: Model, layout: Layout, request: Request, precision: str) -> StepTime | None:
    efficiency = request.efficiency
    if efficiency is None or efficiency.kind != "arithmetic":
        # an end-to-end figure holds for the layout it was measured in and can't tell layouts apart
        efficiency = published(request.device, model, precision)
    loader = request.loader_samples_per_s
    return step_time(
        model, layout, request.device, efficiency, loader_samples_per_s=None if loader is None else loader * layout.data
    )


def _best(
    request: Request,
    precision: str,
    layout: Layout,
    usage: Memory,
    time: StepTime | None,
    good: npt.NDArray[np.intp],
    keep: int,
) -> list[tuple[float, float, Request]]:
    """The fastest of each way of splitting, so that runners-up differ in more than the micro-batch."""
    rows = len(layout.devices)
    samples = column(layout.samples_per_step, rows)
    seconds = column(time.step if time is not None else samples, rows) * layout.devices / samples
    high = column(usage.device_high, rows)
    taken: list[tuple[float, float, Request]] = []
    seen: set[tuple[float, ...]] = set()
    # among equals the plainer layout: fewer stages, less sharding, less tensor parallelism
    order = np.lexsort(
        (
            -layout.micro_batch[good],  # and larger pieces
            layout.tensor[good],
            layout.zero[good],
            layout.pipeline[good],
            layout.offload[good],
            np.round(np.log(seconds[good]), 3),
        )
    )
    for index in good[order]:
        way = tuple(
            float(getattr(layout, name)[index])
            for name in ("devices", "tensor", "pipeline", "zero", "recompute", "offload")
        )
        if way in seen:
            continue
        seen.add(way)
        taken.append((float(seconds[index]), float(high[index]), _request(request, precision, layout.row(int(index)))))
        if len(taken) == keep:
            break
    return taken


def _request(request: Request, precision: str, row: Layout) -> Request:
    return replace(
        request,
        devices=int(row.devices),
        precision=precision,
        strategy=STRATEGY_NAMES[int(row.zero)],
        tensor=int(row.tensor),
        pipeline=int(row.pipeline),
        sequence_parallel=bool(row.sequence_parallel),
        recompute=RECOMPUTE_NAMES[int(row.recompute)],
        micro_batch=int(row.micro_batch),
        offload=OFFLOAD_NAMES[int(row.offload)],
        efficiency=request.efficiency if request.efficiency and request.efficiency.kind == "arithmetic" else None,
    )


def _told(found: list[tuple[float, float, Request]]) -> tuple[Found, ...]:
    told: list[Found] = []
    for seconds, high, request in found:
        share = high / request.device.memory_bytes
        if not told:
            text = f"the fastest that fits; fills up to {share:.0%} of the memory"
        else:
            first = told[0]
            slower, spared = seconds / first.seconds_per_sample - 1, first.device_high_bytes - high
            parts = [f"{slower:.0%} more device time" if slower >= 0.005 else "no measurable time"]
            if abs(spared) > 0.02 * request.device.memory_bytes:
                parts.append(f"{'saves' if spared > 0 else 'takes'} {abs(spared) / 1e9:.0f} GB per device")
            text = ", ".join(parts)
        told.append(Found(request, seconds, high, text))
    return tuple(told)


def layout_text(request: Request) -> str:
    """A layout in a line: "8 x tp 4 x pp 2, zero1, micro-batch 2, recompute full"."""
    degrees = [
        f"{name} {value}"
        for name, value in (("tp", request.tensor), ("pp", request.pipeline), ("ep", request.expert))
        if value > 1
    ]
    batch = [f"micro-batch {request.micro_batch}"] if request.micro_batch else []
    again = [f"recompute {request.recompute}"] if request.recompute != "none" else []
    again += [f"offload {request.offload}"] if request.offload != "none" else []
    return ", ".join(
        [
            f"{request.devices} device{'s' if request.devices > 1 else ''}",
            request.precision,
            request.strategy,
            *degrees,
            *batch,
            *again,
        ]
    )


def planned(found: Found) -> Plan:
    """The full plan of what was found."""
    return make_plan(found.request, count_devices=False)
