"""A rank whose core another program takes comes late, and the reason is told from the scheduler's own account.

The other program inherits the rank's one core; without it nothing is said.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from launching import on_ranks

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

SHARED_CORE = f"""
import subprocess

core = {CORES[:2]}[rank]
os.sched_setaffinity(0, [core])
cured = len(sys.argv) > 1
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if rank == 1 and not cured else None
model = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(6)])
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
batch = torch.randn(256, 512)
try:
    for step in range(60):
        model(batch).square().mean().backward()
        dist.all_reduce(model[0].weight.grad)
        optimizer.step()
        optimizer.zero_grad()
finally:
    if busy is not None:
        busy.kill()
"""


@pytest.mark.slow
@pytest.mark.flaky(reruns=2)  # another program may take the other rank's core meanwhile
@pytest.mark.skipif(len(CORES) < 2, reason="two cores are needed: one that is shared, and one that is not")
def test_a_rank_whose_core_another_program_takes_is_late_for_that(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, SHARED_CORE)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    late = told["ranks"]["late"]
    assert late["rank"] == 1
    assert late["without_core"] > 0.25 and late["without_core"] > 2 * late["others_without_core"], late
    assert told["verdict"]["bottleneck"] == "straggler", told["verdict"]
    finding = next(each for each in told["findings"] if each["rule"] == "straggler/compute")
    assert "had no core" in finding["why"], finding


@pytest.mark.slow
@pytest.mark.flaky(reruns=2)
@pytest.mark.skipif(len(CORES) < 2, reason="two cores are needed: one for each rank")
def test_without_the_other_program_no_rank_is_late(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, SHARED_CORE, "--cured")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert told["verdict"]["bottleneck"] != "straggler", told["verdict"]
    assert "straggler/compute" not in [each["rule"] for each in told["findings"]]
