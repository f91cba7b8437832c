"""A plan as the JSON object of schema 1. Bytes and seconds are plain numbers; what is not known is null."""

from __future__ import annotations

from typing import Any

from profiler.planner.alternatives import Alternative
from profiler.planner.plan import Plan
from profiler.planner.remedy import Remedy, Way
from profiler.planner.search import Findings, layout_text

SCHEMA_VERSION = 1


def as_json(
    plan: Plan, others: list[Alternative], findings: Findings | None = None, solution: Remedy | None = None
) -> dict[str, Any]:
    """The object that `prof plan --json` prints."""
    request, memory, time, cost = plan.request, plan.memory, plan.time, plan.cost
    model, layout = request.model, plan.layout
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": model.name if model else None,
            "parameters": model.parameters if model else None,
            "trainable_parameters": model.trainable_parameters if model else None,
            "source": model.source if model else None,
        },
        "device": {
            "name": request.device.name,
            "count": request.devices,
            "peak_flops": float(layout.peak_flops) if layout else None,
            "source": request.device.source,
        },
        "layout": {
            "precision": request.precision,
            "optimizer": request.optimizer,
            "strategy": request.strategy,
            "tensor": request.tensor,
            "pipeline": request.pipeline,
            "expert": request.expert,
            "sequence_parallel": request.sequence_parallel,
            "recompute": request.recompute,
            "flash": request.flash,
            "offload": request.offload,
            "micro_batch": int(layout.micro_batch) if layout else None,
            "micro_batches_per_step": int(layout.micro_batches) if layout else None,
            "global_batch": int(layout.samples_per_step) if layout else None,
        },
        "memory": {
            "parameters_bytes": memory.parameters,
            "gradients_bytes": memory.gradients,
            "optimizer_bytes": memory.optimizer,
            "activations_bytes": memory.activations,
            "buffers_bytes": {"low": memory.buffers[0], "high": memory.buffers[1]},
            "total_bytes": memory.total,
            "per_device_bytes": {"low": memory.per_device[0], "high": memory.per_device[1]},
            "per_device_categories_bytes": memory.device_parts,
            "host_bytes_per_device": memory.host,
            "device_bytes": memory.device_bytes,
            "fits": memory.fits,
            "least_devices": memory.least_devices,
            "way_to_fit": _way(solution.cheapest) if solution else None,
            "fewest_devices": _way(solution.fewest_devices) if solution else None,
        },
        "time": {
            "flops": time.flops,
            "step_s": time.step_s,
            "step_range_s": _range(time.step_range_s),
            "seconds": time.seconds,
            "seconds_range": _range(time.seconds_range),
            "days": time.days,
            "years": time.years,
            "device_hours": time.device_hours,
            # schema 1 knows four words: launching operators is part of computing
            "bound_by": "compute" if time.bound_by == "host-overhead" else time.bound_by,
            "binding_term": time.bound_by,
            "if_it_fitted": memory.fits == "no",
            "mfu": time.mfu,
            "hfu": time.hfu,
            "terms_s": time.terms_s,
            "bubble_share": time.bubble_share,
            "steps": time.steps,
            "tokens_per_s" if model is None or model.unit == "token" else "samples_per_s": time.units_per_s,
        },
        "cost": {
            "usd": cost.usd,
            "usd_range": _range(cost.usd_range),
            "price_per_device_hour": cost.price_per_device_hour,
            "kwh": cost.kwh,
        },
        "alternatives": [
            _changed(other.change, other.plan) for other in others
        ],
        "search": None
        if findings is None
        else {
            "candidates": findings.candidates,
            "fitting": findings.fitting,
            "found": [
                {"layout": layout_text(found.request), "gives_up": found.gives_up,
                 "per_device_bytes_high": found.device_high_bytes}
                for found in findings.found
            ],
        },
        "assumptions": list(plan.assumptions),
    }  # fmt: skip


def _changed(change: str, plan: Plan) -> dict[str, Any]:
    return {
        "change": change,
        "fits": plan.memory.fits,
        "days": plan.time.days,
        "usd": plan.cost.usd,
        "step_s": plan.time.step_s,
        "devices": plan.request.devices,
        "per_device_bytes": {"low": plan.memory.per_device[0], "high": plan.memory.per_device[1]},
        "host_bytes_per_device": plan.memory.host,
    }


def _way(way: Way | None) -> dict[str, Any] | None:
    return None if way is None else _changed(way.change, way.plan)


def _range(values: tuple[float, float] | None) -> dict[str, float] | None:
    return None if values is None else {"low": values[0], "high": values[1]}
