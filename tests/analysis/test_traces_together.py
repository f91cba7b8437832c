"""Traces of a job's ranks, side by side: planted clocks are found within the error that is stated, and no claim goes
beyond what they carry."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from trace_builder import BEGAN_US, TraceBuilder, training, usual_host

from profiler.analysis.facts import Facts, TraceFacts
from profiler.analysis.trace.many import read_traces, trace_files
from profiler.rules.catalogue import judge

REDUCE = "ncclDevKernel_AllReduce_Sum_f32_RING_LL"
STEPS, STEP_MS = 12, 100.0


def job(
    folder: Path,
    late_ms: list[float],
    offsets_ms: list[float],
    drifts_ppm: list[float],
    transfer_ms: float = 4.0,
    jump_ms: float = 0.0,
    **said: Any,
) -> Facts:
    """Ranks that compute, and reduce twice a step; each rank comes so much later, by a clock of its own."""
    noise = random.Random(7)
    ranks = [training(usual_host, STEPS, STEP_MS, rank=rank, world_size=len(late_ms)) for rank in range(len(late_ms))]
    for step in range(STEPS):
        for at in (30.0, 60.0):
            arrivals = [step * STEP_MS + at + late + noise.random() * 0.01 for late in late_ms]
            for builder, arrival in zip(ranks, arrivals, strict=True):
                end = max(arrivals) + transfer_ms + noise.random() * 0.01
                launched = step * STEP_MS + at - 25
                builder.kernel(arrival - 10, 10, launched=launched)
                builder.kernel(arrival, end - arrival, launched=launched + 0.1, name=REDUCE, stream=40, **said)
    for rank, builder in enumerate(ranks):
        for event in builder.events:
            since = event["ts"] - BEGAN_US
            moved = offsets_ms[rank] + jump_ms * (rank > 0 and since > STEPS * STEP_MS * 500)
            event["ts"] = round(BEGAN_US + since * (1 + drifts_ppm[rank] * 1e-6) + moved * 1000, 3)
        builder.write(folder / f"rank{rank}.json")
    return read_traces(trace_files([folder]))


def traced(found: Facts) -> TraceFacts:
    assert found.trace is not None
    return found.trace


@pytest.mark.parametrize("offset_ms, drift_ppm", [(0.0, 0.0), (250.0, 0.0), (-3_600_000.0, 0.0), (40.0, 80.0)])
def test_planted_clocks_are_found_within_the_stated_error(tmp_path: Path, offset_ms: float, drift_ppm: float) -> None:
    found = traced(job(tmp_path, [0, 0.5, 1], [0, offset_ms, -offset_ms], [0, drift_ppm, 0]))
    assert found.clocks is not None and found.clocks.aligned and found.withheld == {}
    first, second, third = found.ranks
    assert (first.offset_ms, first.offset_error_ms) == (0.0, 0.0)
    for row, planted in ((second, offset_ms), (third, -offset_ms)):
        assert row.offset_ms is not None and row.offset_error_ms is not None
        moved = abs(drift_ppm) * 1e-6 * STEP_MS * STEPS  # the offset is that at the first collectives
        assert abs(row.offset_ms - planted) <= row.offset_error_ms + moved
        assert row.offset_error_ms < 6
    assert second.drift_ppm == pytest.approx(drift_ppm, abs=25)


def test_transfer_and_waiting_are_parted_without_any_clock(tmp_path: Path) -> None:
    found = traced(job(tmp_path, [0, 15], [0, 9e6], [0, 0]))
    assert found.transfer_ms == pytest.approx(8.0, abs=0.1)  # twice a step
    waits = [row.late_wait_ms for row in found.ranks]
    assert waits[0] == pytest.approx(30.0, abs=0.1) and waits[1] == pytest.approx(0.0, abs=0.1)
    assert found.late_wait_ms == waits[0]


def test_what_comparing_the_ranks_tells_is_said(tmp_path: Path) -> None:
    found = job(tmp_path, [0, 15], [0, 250], [0, 0])
    assert any("take 8.0" in notice and "wait 0 to 30 ms" in notice for notice in found.notices)
    assert any("lie up to 250 ms apart" in notice for notice in found.notices)


def test_time_in_collectives_that_a_late_rank_causes_is_not_slow_network(tmp_path: Path) -> None:
    found = job(tmp_path, [0, 15, 0], [0, 250, 90], [0, 0, 0], transfer_ms=0.2)
    assert found.device is not None and found.device.collectives_exposed_ms / STEPS > 25  # on the rank that is judged
    judgement = judge(found)
    assert "comm/exposed-collectives" not in {finding.rule for finding in judgement.findings}
    assert judgement.verdict.bottleneck.value != "communication"


def test_a_slow_network_is_said_to_be_one_though_a_rank_is_late(tmp_path: Path) -> None:
    found = job(tmp_path, [0, 3], [0, 250], [0, 0], transfer_ms=12.0)
    speaks = [finding for finding in judge(found).findings if finding.rule == "comm/exposed-collectives"]
    assert speaks and speaks[0].evidence["exposed_ms"] == pytest.approx(24, abs=0.5)
    assert speaks[0].evidence["waited_for_late_ranks_ms"] == pytest.approx(6, abs=0.5)


def test_a_clock_that_was_set_anew_in_between_is_not_used(tmp_path: Path) -> None:
    found = traced(job(tmp_path, [0, 0], [0, 0], [0, 0], jump_ms=100.0))
    assert found.clocks is not None and not found.clocks.aligned
    assert "clocks" in found.withheld
    assert all(row.offset_ms is None and row.drift_ppm is None for row in found.ranks)


def test_collectives_of_smaller_groups_are_left_out(tmp_path: Path) -> None:
    found = traced(job(tmp_path, [0, 0, 0], [0, 0, 0], [0, 0, 0], **{"Group size": 2}))
    assert found.clocks is not None and not found.clocks.aligned and found.transfer_ms is None
    assert "waiting" in found.withheld


def test_of_some_ranks_of_a_job_transfer_and_waiting_are_not_told(tmp_path: Path) -> None:
    job(tmp_path, [0, 0, 15], [0, 5, 0], [0, 0, 0])
    (tmp_path / "rank2.json").unlink()  # the one that the others wait for
    found = traced(read_traces(trace_files([tmp_path])))
    assert found.transfer_ms is None and found.late_wait_ms is None
    assert found.withheld["waiting"] == "not all ranks of the job were given"
    assert found.clocks is not None and found.clocks.aligned  # that they end together holds all the same


def test_steps_that_ranks_do_not_share_are_not_compared(tmp_path: Path) -> None:
    job(tmp_path, [0, 0], [0, 5], [0, 0])
    path = tmp_path / "rank1.json"
    document = json.loads(path.read_text())
    for event in document["traceEvents"]:
        event["name"] = event["name"].replace("ProfilerStep#", "ProfilerStep#9")
    path.write_text(json.dumps(document))
    found = traced(read_traces(trace_files([tmp_path])))
    assert found.clocks is not None and not found.clocks.aligned
    assert found.transfer_ms is None


def test_a_late_rank_that_sure_clocks_deny_is_not_named(tmp_path: Path) -> None:
    """Rank 1 needs more of its own and yet it is rank 0 that comes last."""

    def step(late: bool) -> Any:
        def made(builder: TraceBuilder, start: float) -> None:
            usual_host(builder, start)
            builder.kernel(start + 10, 20, launched=start + 5)
            arrival = start + (40 if late else 30)
            builder.kernel(arrival, start + 42 - arrival, launched=start + 5.1, name=REDUCE, stream=40)
            builder.kernel(start + 45, 10 if late else 50, launched=start + 5.2)
            if late:  # a wait that the first collective has nothing to do with
                builder.kernel(start + 55, 40, launched=start + 5.3, name="ncclDevKernel_SendRecv", stream=40)

        return made

    for rank, late in enumerate((True, False)):
        training(step(late), STEPS, STEP_MS, rank=rank, world_size=2).write(tmp_path / f"{rank}.json")
    found = traced(read_traces(trace_files([tmp_path])))
    assert found.clocks is not None and found.clocks.aligned and found.clocks.error_ms < 5
    assert found.late is None
    assert "comes last" in found.withheld["late rank"]
