"""Jobs that never ran: facts of ranks from a simulation, with stragglers and clocks planted in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from profiler.analysis.rank_facts import FORMAT, RankFacts, RankLine, RankStage, Series
from profiler.analysis.site import Site

STAGES_MS = {"data_wait": 1.0, "forward": 10.0, "backward": 20.0, "optimizer": 3.0, "other": 0.5}


def job(
    ranks: int = 4,
    steps: int = 200,
    *,
    late: Mapping[int, tuple[str, float]] | None = None,  # rank → (stage, ms more)
    late_every: int = 1,  # steps
    slower: Mapping[int, float] | None = None,  # rank → factor of all its computing
    random_ms: float = 0.0,  # more work of a random length, each step another rank's
    transfer_ms: float = 4.0,
    jitter: float = 0.01,
    hosts: Sequence[str] | None = None,
    offsets_ns: Mapping[str, int] | None = None,
    drift: Mapping[str, float] | None = None,
    seed: int = 0,
    **changes: Any,
) -> list[RankFacts]:
    """Ranks that work, meet in an all-reduce in backward, and step."""
    random = np.random.default_rng(seed)
    times = {
        name: np.abs(value * (1 + jitter * random.standard_normal((ranks, steps)))) for name, value in STAGES_MS.items()
    }
    for rank, (stage, more) in (late or {}).items():
        times[stage][rank, ::late_every] += more
    for rank, factor in (slower or {}).items():
        for stage in ("forward", "backward", "optimizer"):
            times[stage][rank] *= factor
    if random_ms:
        times["forward"] += random_ms * random.random((ranks, steps))
    before = times["data_wait"] + times["forward"] + times["backward"] + times["other"]
    start = np.zeros((ranks, steps))
    arrival, end = np.zeros_like(start), np.zeros_like(start)
    at = np.zeros(ranks)
    for step in range(steps):
        start[:, step] = at
        arrival[:, step] = at + before[:, step]
        end[:, step] = arrival[:, step].max() + transfer_ms * (1 + 0.05 * np.abs(random.standard_normal(ranks)))
        at = end[:, step] + times["optimizer"][:, step]
    blocked = end - arrival
    since_start, until_end = arrival - start, end - start
    told = {
        name: np.stack([value.mean(axis=1), np.median(value, axis=1), np.percentile(value, 95, axis=1)], axis=1)
        for name, value in (*times.items(), ("communication", blocked))
    }
    chosen = np.arange(0, steps, max(1, 2 ** int(np.ceil(np.log2(steps / 256)))))
    names = hosts or ["one"] * ranks
    found = []
    for rank in range(ranks):
        host = names[rank]
        clock = 10**15 + start[rank] * 1e6 * (1 + (drift or {}).get(host, 0.0)) + (offsets_ns or {}).get(host, 0)
        slower = 1 + (drift or {}).get(host, 0.0)
        columns = {name: value[rank] for name, value in times.items()}
        columns |= {"communication": blocked[rank], "comm_backward": blocked[rank]}
        columns |= {"from_backward": since_start[rank] * slower, "to_backward": until_end[rank] * slower}
        stages = {name: RankStage(*map(float, values[rank])) for name, values in told.items()}
        if late and rank in late:
            stage, more = late[rank]
            known = stages[stage]
            line = RankLine(Site("/home/ada/train.py", 40 + rank), "", more)
            stages[stage] = RankStage(known.mean_ms, known.median_ms, known.p95_ms, None, (line,))
        step_ms = float(sum(stage.mean_ms for stage in stages.values()))
        values: dict[str, Any] = {
            "format": FORMAT,
            "rank": rank,
            "world_size": ranks,
            "pid": 1000 + rank,
            "host": host,
            "boot_id": host,
            "backend": "gloo",
            "device": "cpu",
            "torch": "2.13.0",
            "ended": True,
            "disabled": None,
            "duration_s": float(at[rank] / 1e3),
            "steps": steps,
            "measured": steps,
            "step_median_ms": step_ms,
            "step_mean_ms": step_ms,
            "step_noise_ms": 0.1,
            "micro_batches": 1.0,
            "stages": stages,
            "calls": {"gradients (DDP)": 1.0},
            "blocked_ms": {"gradients (DDP)": float(blocked[rank].mean())},
            "phases_ms": {"backward": float(blocked[rank].mean())},
            "exchanges": (),
            "reduction": None,
            "gc_ms": 0.0,
            "items": 32.0,
            "load_ms": 0.5,
            "preprocess_ms": 0.5,
            "collate_ms": 0.1,
            "spans_s": {},
            "span_sites": {},
            "peak_rss_bytes": 10**9,
            "peak_device_bytes": None,
            "last": None,
            "lost_steps": False,
            "series": Series(
                index=chosen.astype("<i4").tobytes(),
                start=clock[chosen].astype("<i8").tobytes(),
                left_out=np.zeros(len(chosen), np.uint8).tobytes(),
                columns={name: value[chosen].astype("<f4").tobytes() for name, value in columns.items()},
            ),
        }
        found.append(RankFacts(**{**values, **changes}))
    return found
