"""A run's result as data: `summary.json`, schema 1.

In:  a `Result`.
Out: a dict that JSON can hold. Times are milliseconds, bytes are `_bytes`, shares are fractions of the mean
     step; what was not measured is null or absent, and `not_measured` says why.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

from profiler.analysis.facts import Facts, SpanFacts
from profiler.analysis.path_facts import CriticalPath
from profiler.analysis.roofline_facts import Roofline
from profiler.analysis.site import Site
from profiler.errors import ProfError
from profiler.record.vocabulary import SCHEMA_VERSION
from profiler.report.palette import in_order
from profiler.rules.verdict import Result

SHARES_TOLERANCE = 1e-3
MOST_DEVICE_STEPS = 1000  # in a summary; of more, every n-th


def summary(result: Result) -> dict[str, Any]:
    """The contract of a run's result."""
    facts, judgement = result.facts, result.judgement
    value = {
        "schema_version": SCHEMA_VERSION,
        "run": _run(facts),
        "steps": None if facts.steps is None else asdict(facts.steps),
        "stages": _stages(facts),
        "clock": "device" if facts.machine.device_times else "host",
        "workers": None if facts.workers is None else asdict(facts.workers),
        "device": _device(facts),
        "trace": None if facts.trace is None else asdict(facts.trace),
        "ranks": None if facts.ranks is None else asdict(facts.ranks),
        "memory": _memory(facts),
        "verdict": asdict(judgement.verdict),
        "findings": [asdict(finding) for finding in judgement.findings],
        "abstentions": [asdict(abstention) for abstention in judgement.abstentions],
        "failures": [{"rule": rule, "error": error} for rule, error in judgement.failures],
        "spans": [_span(span) for span in facts.spans],
        "gc": None
        if facts.gc_ms_per_step is None
        else {"ms_per_step": facts.gc_ms_per_step, "pauses": facts.gc_pauses},
        "settings": asdict(facts.settings),
        "operators": [_operator(row) for row in facts.operators],
        "threads": facts.threads,
        "not_measured": facts.not_measured,
        "notices": list(notices(facts)),
        "overhead": {
            "us_per_step": facts.overhead.us_per_step,
            "share": facts.overhead.share,
            "sampler_share": facts.overhead.sampler_share,
            "events_per_step": facts.overhead.events_per_step,
            "instrument_s": facts.overhead.instrument_s,
        },
    }
    safe = json_safe(value)
    assert isinstance(safe, dict)
    return safe


def notices(facts: Facts) -> tuple[str, ...]:
    """What the reader must know first; among it, that the stages do not add up, should that ever be so."""
    total = math.fsum(stage.share for stage in facts.stages.values())
    if not facts.stages or abs(total - 1) <= SHARES_TOLERANCE:
        return facts.notices
    return (
        f"the stages add up to {100 * total:.1f} % of the step instead of 100 %: don't rely on their times",
        *facts.notices,
    )


def summary_bytes(value: dict[str, Any]) -> bytes:
    """A summary as it stands in its file."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode("ascii")


def read_summary(path: Path) -> dict[str, Any]:
    """Read a `summary.json`. Raises ProfError when it is not one that this version understands."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ProfError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ProfError(f"{path} is damaged: it is not JSON; `prof report {path.parent}` writes it anew.") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ProfError(f"{path} is not a summary of prof: it names no schema_version.")
    if version > SCHEMA_VERSION:
        raise ProfError(
            f"{path} was written by a newer prof (schema {version}; this one reads up to {SCHEMA_VERSION}): "
            "upgrade with `pip install -U trainprof`."
        )
    assert isinstance(value, dict)
    return value


def _run(facts: Facts) -> dict[str, Any]:
    run, machine = facts.run, facts.machine
    return {
        "name": run.name,
        "command": list(run.command),
        "device": machine.device,
        "torch": run.torch,
        "python": run.python,
        "ranks": run.ranks,
        "duration_s": run.duration_s,
        "started_unix_s": run.started_unix_s,
        "exit_code": run.exit_code,
        "signal": run.signal,
        "ended": run.ended,
        "other_trainings": run.other_trainings,
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "idle_cores": machine.idle_cores,
        "without_core": machine.without_core,
    }


def _stages(facts: Facts) -> dict[str, Any]:
    stages = {}
    for name in in_order(facts.stages):
        stage = facts.stages[name]
        stages[name] = {
            "median_ms": stage.median_ms,
            "mean_ms": stage.mean_ms,
            "p5_ms": stage.p5_ms,
            "p95_ms": stage.p95_ms,
            "share": stage.share,
            "calls_per_step": stage.calls_per_step,
            "call": None if stage.call is None else asdict(stage.call),
            "parts_ms": stage.parts_ms,
            **({} if stage.host_ms is None else {"host_ms": stage.host_ms}),
            "lines": [asdict(line) for line in stage.lines],
        }
    return stages


def _device(facts: Facts) -> dict[str, Any] | None:
    device, nvml = facts.device, dict(facts.machine.gpu)
    arithmetic = {} if facts.arithmetic is None else asdict(facts.arithmetic)
    path: dict[str, Any] = {} if facts.critical_path is None else {"critical_path_ms": _path(facts.critical_path)}
    if facts.roofline is not None:
        path["roofline"] = _roofline(facts.roofline)
    if device is None:
        known = arithmetic | ({"nvml": nvml} if nvml else {}) | path
        return {"busy_share": None, "kernel_ms": None, **known} if known else None
    stride = math.ceil(len(device.steps) / MOST_DEVICE_STEPS)
    value = asdict(replace(device, steps=device.steps[::stride])) if stride > 1 else asdict(device)
    for name in ("step_copies", "collectives_ms", "collectives_exposed_ms", "sync_ms", "sync_starved_ms"):
        del value[name]
    if stride > 1:
        value |= {"steps_every": stride, "steps_of": len(device.steps)}
    return (
        value
        | arithmetic
        | path
        | {
            "busy_share": device.busy_share,
            "collectives": {
                "total_ms": device.collectives_ms,
                "exposed_ms": device.collectives_exposed_ms,
                "kinds": value["collectives"],
            },
            "sync": {"ms": device.sync_ms, "starved_ms": device.sync_starved_ms},
            "nvml": nvml or None,
        }
    )


def _path(path: CriticalPath) -> dict[str, Any]:
    """The parts make up `step_ms`."""
    return {
        "step": path.step,
        "of_device": path.of_device,
        "step_ms": path.step_ms,
        "host": path.host_ms,
        "data_wait": path.data_wait_ms,
        "launch": path.launch_ms,
        "kernels": path.kernels_ms,
        "copies": path.copies_ms,
        "collectives": path.collectives_ms,
        "unknown": path.unknown_ms,
        "device_busy": path.device_busy_ms,
        "host_parts": [asdict(part) for part in path.host],
    }


def _roofline(roofline: Roofline) -> dict[str, Any]:
    rows = [
        {
            **asdict(row),
            "tflops": row.tflops,
            "gbs": row.gbs,
            "intensity": row.intensity,
            "bound": row.bound,
            "roof_share": row.roof_share,
        }
        for row in roofline.rows
    ]
    return {**asdict(roofline), "rows": rows}


def _memory(facts: Facts) -> dict[str, Any]:
    memory = facts.memory
    return {
        "peak_rss_bytes": memory.peak_rss_bytes,
        "peak_device_bytes": memory.peak_device_bytes,
        "reserved_device_bytes": memory.reserved_device_bytes,
        "device_capacity_bytes": memory.device_capacity_bytes,
        "workers_peak_rss_bytes": memory.workers_peak_rss_bytes,
        "stages": {name: {"peak_bytes": peak} for name, peak in memory.stage_peak_bytes.items()},
        "categories": memory.categories_bytes,
        "activations_by_module": [{"module": name, "bytes": size} for name, size in memory.activations_by_module],
        "growth_bytes_per_step": memory.growth_bytes_per_step,
        "growth_bytes": memory.growth_bytes,
        "gradients_in_forward_bytes": memory.gradients_in_forward_bytes,
        "samples_in_step": memory.samples_in_step,
        "outputs_held_bytes": memory.outputs_held_bytes,
        "outputs_outlived_bytes": memory.outputs_outlived_bytes,
    }


def _operator(row: dict[str, Any]) -> dict[str, Any]:
    """Plain, with the user's line where it is known."""
    site = row.get("site")
    return row if not isinstance(site, Site) else {**row, "site": asdict(site)}


def _span(span: SpanFacts) -> dict[str, Any]:
    value = asdict(span)
    del value["intervals_s"]
    return value


def json_safe(value: Any) -> Any:
    """The same with plain types only; a number that is not finite was not measured."""
    if isinstance(value, Enum):
        return json_safe(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, set | frozenset):
        return [json_safe(item) for item in sorted(value, key=str)]
    return str(value)
