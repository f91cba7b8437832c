"""Calibrate a plan by finished runs: what was measured replaces what would be assumed.

In:  `summary.json` of one run, or of several that differ in their batch size.
Out: `Calibration`, and from it the step at another batch, rank count, worker count or model size.

A step is cut into what grows with the batch (forward, backward, copies), what grows with the parameters
(optimizer), what stays (`other`), what the ranks exchange (communication), and the loader's floor. From one run
the part of the work that does not grow with the batch can't be told: it is taken as none, and the interval says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from profiler.errors import ProfError
from profiler.planner.architecture import Counted, Model
from profiler.planner.catalogue import Device, find, known_device
from profiler.planner.efficiency import machine
from profiler.planner.flops import model_flops_per_unit
from profiler.planner.measured_run import Run, read_summary, run_of
from profiler.planner.states import known_precision

if TYPE_CHECKING:
    from profiler.planner.plan import Request

MEASURED_DOUBT = 0.05  # half-width of the interval at the measured point, as a share
DOUBT_PER_DOUBLING = {
    "batch": 0.08,
    "micro-batches": 0.03,
    "work": 0.10,
    "parameters": 0.03,
    "ranks": 0.15,
    "workers": 0.10,
}
OTHER_DEVICE_DOUBT = 0.5


@dataclass(frozen=True, slots=True)
class Calibration:
    """Runs to predict from; the first is the base, others (of other batch sizes) refine it."""

    runs: tuple[Run, ...]
    device: Device | None = None  # the base's
    own_model: Model | None = None  # the base's model, counted, where its script was run again on the meta device

    @property
    def base(self) -> Run:
        """The run that everything is scaled from."""
        return self.runs[0]

    @property
    def ranks(self) -> int:
        """Ranks of the base run."""
        return self.base.ranks

    @property
    def precision(self) -> str:
        """The recipe of the base run."""
        return self.base.precision

    @property
    def model(self) -> Model | None:
        """The measured model: parameters and activations as they were; its FLOPs are not in a summary."""
        run = self.base
        if run.parameters is None:
            return None
        slope, fixed = _activation_line(self.runs)
        counted = None
        if slope is not None:
            # measured in 16 bit they are half of what fp32 would keep, at most
            whole = 2.0 if known_precision(run.precision).activation_bytes < 4 else 1.0
            batch = max(1, round(run.micro_batch or 1))
            counted = Counted(
                0.0, 0.0, whole * slope, whole * fixed, 0.5, batch=batch, micro_batches=round(run.micro_batches)
            )
        return Model(
            name=f"the model of {run.name}",
            source=f"measured by {run.name}",
            parameters=run.parameters,
            trainable_parameters=run.trainable if run.trainable is not None else run.parameters,
            flop_parameters=None,
            unit="sample",
            counted=counted,
            optimizer=run.optimizer,
            global_batch=None if run.batch is None else run.batch * run.ranks,
        )


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """A predicted step, in seconds, and its interval."""

    compute_s: float
    optimizer_s: float
    communication_s: float
    data_s: float  # the loader's floor; with no workers, its part of the step
    step_s: float
    low_s: float
    high_s: float
    bound_by: str
    said: tuple[str, ...]  # what was scaled, a sentence each


def read_runs(paths: Sequence[Path]) -> Calibration:
    """The calibration of run folders (or summary.json files). Raises ProfError for what is none."""
    calibration = Calibration(tuple(run_of(*read_summary(path)) for path in paths))
    for run in calibration.runs[1:]:
        if run.precision != calibration.precision:
            raise ProfError(
                f"{run.name} ran in {run.precision} and {calibration.base.name} in {calibration.precision}: calibrate "
                "by runs of one precision."
            )
    return calibration


def measured_device(calibration: Calibration, own: dict[str, Any]) -> Device:
    """The device that the run ran on: a catalogue's, or this machine for a run on CPU."""
    name = calibration.base.device
    if name.lower() == "cpu":
        return machine()
    words = name.lower().replace("nvidia", "").replace("geforce", "").replace("amd", "").replace("instinct", "")
    try:
        return known_device("-".join(words.split()), own)
    except ProfError:
        from profiler.planner.catalogue import device_entries

        for part in words.replace("-", " ").split():
            if any(part in key for key in device_entries(own)) and len(part) > 2:
                return known_device(find("GPU", part, device_entries(own)), own)
        raise


def calibrate(request: Request, calibration: Calibration, *, workers: int | None = None) -> Request:
    """The request with what the run measured. Raises ProfError when the run lacks what the plan needs."""
    run = calibration.base
    batch = run.batch
    if batch is None and request.micro_batch is None and request.global_batch is None:
        raise ProfError(f"{run.name} shows no batch size (it used no DataLoader): pass --micro-batch.")
    if batch is None:
        batch = request.micro_batch or max(1, (request.global_batch or 1) // max(1, request.devices))
        calibration = replace(calibration, runs=(replace(run, batch=batch), *calibration.runs[1:]))
    model = request.model
    if model is not None and not model.source.startswith("measured by") and calibration.own_model is None:
        calibration = replace(calibration, own_model=_own_model(calibration))
        model = _rescaled(model, calibration)
    micro = request.micro_batch
    if micro is None and request.global_batch is None:
        micro = max(1, round(batch / run.micro_batches))
    return replace(request, model=model, micro_batch=micro, calibration=calibration, workers=workers)


def predict(
    calibration: Calibration,
    *,
    samples: float,
    ranks: int,
    workers: int | None,
    model: Model | None,
    device: Device | None = None,
    micro_batches: float = 1.0,
    precision: str | None = None,
) -> MeasuredStep:
    """The step of one rank with that many samples of its own; `model` where it is another than the run's.

    On another device than the run's, arithmetic is scaled by peaks and the update by bandwidths, with much doubt. In
    another precision it gains something between nothing and the ratio of the peaks.
    """
    run, said = calibration.base, []
    faster, wider, other_device = _device_ratios(calibration, device)
    formats = _format_ratio(calibration, device, precision)
    batch = float(run.batch or samples)
    work, parameters = _work_ratios(calibration, model)
    fixed_ms, slope_ms = _line([(each, each.growing_ms) for each in calibration.runs], grows=True)
    growing = (fixed_ms * micro_batches + slope_ms * samples) * work / (faster * math.sqrt(formats))
    optimizer = _mean([each.optimizer_ms for each in calibration.runs]) * parameters / wider
    fixed_ms, slope_ms = _line([(each, each.fixed_ms) for each in calibration.runs], grows=False)
    fixed = fixed_ms * micro_batches + slope_ms * samples
    communication = _communication_ms(run, ranks, parameters, device)
    rest = growing + optimizer + fixed + communication
    data, serial = _data_ms(run, samples, workers)
    step = rest + data if serial else max(rest + _hand_over_ms(run), data)
    doubt = max(MEASURED_DOUBT, min(run.spread, 0.25))
    if other_device and device is not None:
        doubt += OTHER_DEVICE_DOUBT
        said.append(
            f"{device.name} instead of {run.device}: arithmetic by peaks ({faster:.3g} x), updates by bandwidth"
        )
    if formats != 1.0:
        doubt += max(math.sqrt(formats), 1 / math.sqrt(formats)) - 1
        said.append(f"{precision} instead of {run.precision}: peaks differ {formats:.3g} x, half of that is expected")
    own, planned = batch / run.micro_batches, samples / micro_batches
    moved = {
        "batch": planned / own,
        "micro-batches": micro_batches / run.micro_batches,
        "work": work,
        "parameters": parameters,
        "ranks": ranks / run.ranks,
    }
    if workers is not None and run.workers is not None:
        moved["workers"] = max(workers, 1) / max(run.workers, 1)
    if len(calibration.runs) > 1:
        sizes = [each.micro_batch for each in calibration.runs if each.micro_batch]
        nearest = min(sizes, key=lambda size: abs(math.log(planned / size)), default=own)
        moved["batch"] = planned / nearest
    for name, ratio in moved.items():
        doubt += DOUBT_PER_DOUBLING[name] * abs(math.log2(ratio))
        if abs(math.log2(ratio)) > 0.01:
            said.append(f"{name} x {ratio:.3g} against the run")
    terms = {"compute": growing + fixed + optimizer, "communication": communication, "data-loading": data}
    bound = "data-loading" if not serial and data > rest else max(terms, key=lambda name: terms[name])
    return MeasuredStep(
        compute_s=(growing + fixed) / 1e3,
        optimizer_s=optimizer / 1e3,
        communication_s=communication / 1e3,
        data_s=data / 1e3,
        step_s=step / 1e3,
        low_s=step / (1 + doubt) / 1e3,
        high_s=step * (1 + doubt) / 1e3,
        bound_by=bound,
        said=tuple(said),
    )


def _device_ratios(calibration: Calibration, device: Device | None) -> tuple[float, float, bool]:
    """Peak and bandwidth of the planned device over the run's, and whether it is another."""
    run_device = calibration.device
    if device is None or run_device is None or device.key == run_device.key:
        return 1.0, 1.0, False
    wanted = known_precision(calibration.precision).peak
    shared = [
        name
        for name in (wanted, "bf16", "fp16", "tf32", "fp32")
        if name in device.peak_flops and name in run_device.peak_flops
    ]
    peak = device.peak_flops[shared[0]] / run_device.peak_flops[shared[0]] if shared else 1.0
    return peak, device.bandwidth_bytes_per_s / run_device.bandwidth_bytes_per_s, True


def _format_ratio(calibration: Calibration, device: Device | None, precision: str | None) -> float:
    """The planned precision's peak over the run's, on the planned device; 1 where both or one is not known there."""
    where = device or calibration.device
    peaks = where.peak_flops if where is not None else {}
    new, old = known_precision(precision or calibration.precision).peak, known_precision(calibration.precision).peak
    return peaks[new] / peaks[old] if new in peaks and old in peaks else 1.0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _line(points: list[tuple[Run, float]], *, grows: bool) -> tuple[float, float]:
    """Milliseconds per micro-batch and per sample; least squares over runs whose micro-batches differ in size.

    From one size the two can't be told apart: what `grows` is taken to grow with the samples, else with the passes.
    """
    known = [(run.micro_batches, float(run.batch), ms) for run, ms in points if run.batch]
    passes, samples, times = (np.array(column, float) for column in zip(*known, strict=True))
    if len(set(np.round(samples / passes, 6))) >= 2:
        fixed, slope = np.linalg.lstsq(np.stack((passes, samples), axis=1), times, rcond=None)[0]
        if fixed > 0 and slope > 0:
            return float(fixed), float(slope)
        grows = slope > 0
    return (0.0, float(times.sum() / samples.sum())) if grows else (float(times.sum() / passes.sum()), 0.0)


def _activation_line(runs: tuple[Run, ...]) -> tuple[float | None, float]:
    """Bytes per sample of one micro-batch, and those that do not grow with it."""
    points = [
        (run.micro_batch, run.categories["activations"])
        for run in runs
        if run.micro_batch and "activations" in run.categories
    ]
    if not points:
        return None, 0.0
    if len({x for x, _ in points}) < 2:
        return points[0][1] / points[0][0], 0.0
    (x1, y1), (x2, y2) = min(points), max(points)
    slope = (y2 - y1) / (x2 - x1)
    return slope, max(0.0, y1 - slope * x1)


def _work_ratios(calibration: Calibration, model: Model | None) -> tuple[float, float]:
    """FLOPs per sample and parameters, planned over measured; 1 for the run's own model."""
    own = calibration.own_model
    if model is None or own is None:
        return 1.0, 1.0
    new, old = model_flops_per_unit(model, attention=True), model_flops_per_unit(own, attention=True)
    return (new / old if new and old else 1.0), model.trainable_parameters / own.trainable_parameters


def _own_model(calibration: Calibration) -> Model:
    """The run's own model, found by running its command's script on the meta device."""
    from profiler.planner.script import find_model

    command = calibration.base.command
    start = next((index for index, word in enumerate(command) if word.endswith(".py")), None)
    if start is None:
        raise ProfError(
            f"{calibration.base.name} ran no script that can be compared with another model: plan without --from, "
            "or without another model."
        )
    return find_model(command[start:])


def _rescaled(model: Model, calibration: Calibration) -> Model:
    """The planned model with its counted activations corrected by what the run measured of its own."""
    own, run = calibration.own_model, calibration.base
    measured = run.categories.get("activations")
    if own is None or own.counted is None or model.counted is None or measured is None or not run.micro_batch:
        return model
    expected = own.counted.activation_fixed_bytes + own.counted.activation_bytes_per_sample * run.micro_batch
    if known_precision(run.precision).activation_bytes < 4:
        expected = expected * own.counted.low_precision_share + own.counted.low_precision_copies_bytes
    factor = measured / expected if expected else 1.0
    counted = replace(
        model.counted,
        activation_bytes_per_sample=model.counted.activation_bytes_per_sample * factor,
        activation_fixed_bytes=model.counted.activation_fixed_bytes * factor,
        low_precision_copies_bytes=model.counted.low_precision_copies_bytes * factor,
    )
    return replace(model, counted=counted)


def _communication_ms(run: Run, ranks: int, parameters: float, device: Device | None) -> float:
    """Exposed communication: scaled as a ring of the run's own latency and rate, or where it shows none by 2(n−1)/n.

    From one rank, the network's rate with nothing hidden.
    """
    if ranks <= 1:
        return 0.0
    if run.ranks > 1 and run.link is not None and run.trainable:
        gradients = run.trainable * 4.0
        before = run.link.ring_ms(run.ranks, run.ranks, gradients)
        return run.communication_ms * run.link.ring_ms(ranks, run.ranks, gradients * parameters) / before
    if run.ranks > 1:
        return run.communication_ms * parameters * ((ranks - 1) / ranks) / ((run.ranks - 1) / run.ranks)
    from profiler.planner.timing import LINK_EFFICIENCY

    gradients = (run.trainable or 0.0) * parameters * 4.0
    rate = 1.25e9
    if device is not None:
        inside = ranks <= device.devices_per_node and device.link_bytes_per_s
        rate = float(inside or device.network_bytes_per_s)
    transfer = 2 * (ranks - 1) / ranks * gradients / (rate * LINK_EFFICIENCY) * 1e3
    hidden = 0.5 * run.growing_ms  # DDP reduces behind most of the backward pass
    return max(0.1 * transfer, transfer - hidden)


def _hand_over_ms(run: Run) -> float:
    """What a batch costs the loop when it lies ready: the wait of a run whose workers kept up."""
    if not run.workers or run.batch_ms is None:
        return run.waited_ms if run.workers else 0.0
    return run.waited_ms if _keeps_up(run) else 0.0


def _keeps_up(run: Run) -> bool:
    """Whether the workers have a batch ready before the loop asks for it."""
    each = 0.0 if run.batch_ms is None or not run.workers else run.batch_ms / run.workers
    return each * run.micro_batches < 0.8 * (run.step_ms - run.waited_ms)


def _data_ms(run: Run, samples: float, workers: int | None) -> tuple[float, bool]:
    """Milliseconds that the loader needs per step, and whether the training thread spends them itself."""
    count = run.workers if workers is None else workers
    if run.batch_ms is None or not run.loader_batch:
        return run.waited_ms * samples / float(run.batch or samples), not count
    work = run.batch_ms * samples / run.loader_batch
    if run.workers and run.batch and not _keeps_up(run):  # a loop that waits shows the pace that workers really keep
        work = max(work, run.step_ms * run.workers * samples / run.batch)
    if count:
        return work / count, False
    return (run.waited_ms * samples / float(run.batch or samples)) if not run.workers else work, True
