"""What a device did, made by hand: a training on an H100 that nothing holds back, of which a test changes a part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from facts_builder import facts, gpu, loader, settings, stages, steps

from profiler.analysis.device_facts import CopyFacts, DeviceFacts, DeviceStep, KernelFacts, SyncCall
from profiler.analysis.facts import Facts

STEPS = 10
HOST_MS = {"data_wait": 1.0, "forward": 35.0, "backward": 52.0, "optimizer": 9.0, "other": 3.0}  # 100 ms


def kernel(name: str, family: str, ms: float, count: int = 1000, **changes: Any) -> KernelFacts:
    """A kernel or a family, in milliseconds over ten steps."""
    made = KernelFacts(name, family, "", count, ms, None)
    return replace(made, **changes)


def device(
    busy_ms: float = 96.0,
    idle_ms: dict[str, float] | None = None,
    kernels: tuple[KernelFacts, ...] = (),
    syncs: tuple[SyncCall, ...] = (),
    copies: dict[str, CopyFacts] | None = None,
    copies_ms: float = 0.0,
    **changes: Any,
) -> DeviceFacts:
    """Ten steps of 100 ms, the device busy, idle and copying alone for so long in each; the rest are totals."""
    idle = {"host": 100.0 - busy_ms} if idle_ms is None else idle_ms
    families: dict[str, KernelFacts] = {}
    for it in kernels:
        known = families.get(it.family, replace(it, name=it.family, count=0, ms=0.0))
        families[it.family] = replace(known, count=known.count + it.count, ms=known.ms + it.ms)
    count = sum(it.count for it in kernels) or 10_000
    total = sum(it.ms for it in kernels) or STEPS * busy_ms
    made = DeviceFacts(
        name="NVIDIA H100 80GB HBM3",
        source="trace",
        span_ms=STEPS * 100.0,
        busy_ms=STEPS * busy_ms,
        steps_busy_share=busy_ms / 100,
        kernel_count=count,
        kernel_ms=STEPS * busy_ms,
        kernel_sum_ms=total,
        tensor_core_share=0.6,
        copies=copies or {},
        collectives_ms=0.0,
        collectives_exposed_ms=0.0,
        collectives=(),
        idle_ms={cause: STEPS * ms for cause, ms in idle.items()},
        sync_ms=sum(call.ms for call in syncs),
        sync_starved_ms=sum(call.starved_ms for call in syncs),
        syncs=syncs,
        stages_ms={"forward": 30.0, "backward": 60.0, "optimizer": 6.0},
        families=tuple(sorted(families.values(), key=lambda it: -it.ms)),
        kernels=kernels,
        launch_delay_us=40_000.0 if busy_ms >= 90 else 8.0,
        queue_depth=100.0 if busy_ms >= 90 else 1.0,
        steps=tuple(
            DeviceStep(number, 100.0, busy_ms, dict(idle), exposed_copies_ms=copies_ms) for number in range(STEPS)
        ),
    )
    return replace(made, **changes)


def on_device(it: DeviceFacts | None, *, extra: dict[str, Any] | None = None, **changes: Any) -> Facts:
    """A training of 100 ms a step on that device; `extra` is known of its model's layers."""
    values = changes.pop("values", {})
    lines = changes.pop("lines", {})
    made = settings((changes.pop("loader", loader()),))
    root = replace(made.roots[0], extra=extra or {}, dtypes=changes.pop("dtypes", ("float32",)))
    known = replace(made, roots=(root,) if extra is not None else (), values=values)
    held = {
        "machine": gpu(device_times=True),
        "steps": steps(100.0),
        "stages": stages(HOST_MS, lines),
        "settings": known,
        "device": it,
    }
    return facts(HOST_MS, **(held | changes))


def sync(operator: str, ms: float, starved_ms: float, name: str = "cudaStreamSynchronize", **changes: Any) -> SyncCall:
    """Calls that block the host for so long over ten steps."""
    made = SyncCall(name, operator, "forward", STEPS, ms, starved_ms)
    return replace(made, **changes)
