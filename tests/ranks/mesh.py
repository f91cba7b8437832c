"""A job that never ran, on a mesh of ranks: reductions among neighbours in forward, across them in backward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from generated import job

from profiler.analysis.rank_facts import Exchange, RankFacts, Series

WORK_MS = {"forward": 10.0, "backward": 20.0}
EVERY = 4


def mesh_job(
    rows: int = 2,
    columns: int = 2,
    steps: int = 200,
    *,
    late: Mapping[int, tuple[str, float]] | None = None,  # rank → (stage, ms more)
    transfer_ms: Mapping[str, float] | None = None,  # by phase
    slow_group: tuple[int, ...] = (),  # in which the transfer takes twice as long
    jitter: float = 0.01,
) -> tuple[list[RankFacts], np.ndarray]:
    """The ranks' facts, and what each of them really waited per step, ms."""
    random = np.random.default_rng(0)
    count = rows * columns
    takes = {"forward": 2.0, "backward": 4.0, **(transfer_ms or {})}
    groups = {
        "forward": [tuple(range(row * columns, (row + 1) * columns)) for row in range(rows)],
        "backward": [tuple(range(column, count, columns)) for column in range(columns)],
    }
    at = np.zeros(count)
    start = np.zeros((count, steps))
    blocked = {phase: np.zeros((count, steps)) for phase in groups}
    arrived = {phase: np.zeros((count, steps)) for phase in groups}
    waited = np.zeros(count)
    for step in range(steps):
        start[:, step] = at
        for phase, of_phase in groups.items():
            work = WORK_MS[phase] * (1 + jitter * random.standard_normal(count))
            for rank, (stage, more) in (late or {}).items():
                work[rank] += more * (stage == phase)
            at = at + work
            arrived[phase][:, step] = at
            for group in of_phase:
                members = list(group)
                last = at[members].max()
                waited[members] += last - at[members]
                end = last + takes[phase] * (2 if group == slow_group else 1)
                blocked[phase][members, step] = end - at[members]
                at[members] = end
    facts = []
    for rank, plain in enumerate(job(count, steps)):
        columns_ = {f"comm_{phase}": blocked[phase][rank] for phase in groups}
        columns_ |= {f"from_{phase}": (arrived[phase] - start)[rank] for phase in groups}
        columns_ |= {f"to_{phase}": (arrived[phase] + blocked[phase] - start)[rank] for phase in groups}
        for stage, ms in WORK_MS.items():
            more = sum(each for name, each in [(late or {}).get(rank, ("", 0.0))] if name == stage)
            columns_[stage] = np.full(steps, ms + more)
        series = Series(
            index=np.arange(steps).astype("<i4").tobytes(),
            start=(10**15 + start[rank] * 1e6).astype("<i8").tobytes(),
            left_out=np.zeros(steps, np.uint8).tobytes(),
            columns={name: values.astype("<f4").tobytes() for name, values in columns_.items()},
        )
        exchanges = tuple(
            Exchange(
                kind="all_reduce",
                group=phase,
                group_size=len(group),
                backend="gloo",
                dtype="float32",
                calls=1.0,
                bytes=1e6,
                blocked_ms=float(blocked[phase][rank].mean()),
                shortest_ms=float(blocked[phase][rank].min()),
                asynchronous=False,
                every=EVERY,
                times=blocked[phase][rank][EVERY - 1 :: EVERY].astype("<f4").tobytes(),
                members=group if len(group) < count else (),
            )
            for phase, of_phase in groups.items()
            for group in of_phase
            if rank in group
        )
        phases = {phase: float(blocked[phase][rank].mean()) for phase in groups}
        facts.append(replace(plain, series=series, exchanges=exchanges, phases_ms=phases))
    return facts, waited / steps
