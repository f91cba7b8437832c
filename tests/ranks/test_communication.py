"""What is recorded of communication on real ranks, against timers in the script itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launching import on_ranks

from profiler.analysis.fold import collect
from profiler.record.reader import of_kind, read_notes
from profiler.record.vocabulary import Communication

MODEL = """
model = torch.nn.Sequential(*[torch.nn.Linear(384, 384) for _ in range(4)])
batch = torch.randn(32, 384)
"""

BY_HAND = (
    MODEL
    + """
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
blocked = 0.0
for step in range(40):
    model(batch).square().mean().backward()
    began = time.perf_counter()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    blocked += time.perf_counter() - began
    began = time.perf_counter()
    work = dist.all_reduce(torch.ones(1000), async_op=True)
    blocked += time.perf_counter() - began
    batch = batch @ torch.eye(384)
    began = time.perf_counter()
    work.wait()
    blocked += time.perf_counter() - began
    optimizer.step()
    optimizer.zero_grad()
sys.stdout.write(f"TRUTH {rank} {blocked}\\n")
"""
)

BY_DDP = (
    MODEL
    + """
model = DDP(model, bucket_cap_mb=1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
model._set_ddp_runtime_logging_sample_rate(1)
exposed = 0.0
for step in range(40):
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        model.logger.set_runtime_stats_and_log()
    data = model._get_ddp_logging_data()
    exposed += data["backward_comm_time_end"] - data["backward_compute_time_end"]
for micro in range(4):
    with model.no_sync() if micro < 3 else torch.enable_grad():
        model(batch).square().mean().backward()
optimizer.step()
sys.stdout.write(f"TRUTH {rank} {exposed / 1e9}\\n")
"""
)

LIBRARIES = """
import copy, pickle
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

def layers():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

def train(model, optimizer):
    for step in range(3):
        model(torch.randn(8, 64)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

mesh = init_device_mesh("cpu", (2,))
sharded = layers()
for part in (sharded[0], sharded[2], sharded):
    fully_shard(part, mesh=mesh)
train(sharded, torch.optim.AdamW(sharded.parameters()))
parallel = parallelize_module(layers(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
train(parallel, torch.optim.SGD(parallel.parameters(), lr=0.1))
replicated = DDP(layers())
train(replicated, ZeroRedundancyOptimizer(replicated.parameters(), optimizer_class=torch.optim.Adam))
copy.deepcopy(replicated.module)
pickle.dumps(replicated.module)
buffer = torch.ones(4)
if rank == 0:
    dist.send(buffer, 1)
    dist.isend(buffer, 1).wait()
else:
    dist.recv(buffer, 0)
    dist.irecv(buffer, 0).wait()
for work in dist.batch_isend_irecv([dist.P2POp(dist.isend if rank == 0 else dist.irecv, buffer, 1 - rank)]):
    work.wait()
objects = [None, None]
dist.all_gather_object(objects, {"rank": rank})
dist.broadcast_object_list(objects, 0)
dist.all_to_all_single(torch.empty(4), buffer)
dist.all_reduce(buffer, group=dist.new_group([0, 1]))
dist.barrier()
train(replicated, torch.optim.SGD(replicated.parameters(), lr=0.1))
sys.stdout.write(f"TRUTH {rank} 0\\n")
"""


def processes(folder: Path) -> list[Path]:
    return sorted((folder / "run").glob("rank-*/*"))


def columns(process: Path) -> dict[str, Any]:
    return collect(process, final=True).steps.columns()


def truth(output: str) -> dict[int, float]:
    """What the script printed, by rank."""
    words = output.replace("TRUTH", "\nTRUTH").splitlines()
    return {int(line.split()[1]): float(line.split()[2]) for line in words if line.startswith("TRUTH")}


@pytest.mark.parametrize("source", [BY_HAND, BY_DDP], ids=["by hand", "by DDP"])
def test_exposed_communication_is_what_timers_in_the_script_say(source: str, tmp_path: Path) -> None:
    done = on_ranks(tmp_path, source)
    assert done.returncode == 0, done.stderr
    told = truth(done.stdout)
    assert sorted(told) == [0, 1]
    for rank, process in enumerate(processes(tmp_path)):
        table = columns(process)
        steps = len(table["wall_ns"])
        ours_s = table["part_11"].sum() / 1e9
        assert abs(ours_s - told[rank]) <= max(0.05 * told[rank], 0.001 * steps), (ours_s, told)
        parts = sum(column for name, column in table.items() if name.startswith("part_"))
        assert np.array_equal(parts, table["wall_ns"])


def test_accumulation_without_reduction_is_told_from_accumulation_with_it(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, BY_DDP)
    assert done.returncode == 0, done.stderr
    notes, _ = read_notes(processes(tmp_path)[0])
    last = of_kind(notes, "ddp")[-1]
    assert (last["synced_backwards"], last["unsynced_backwards"]) == (41, 3)
    assert last["bucket_cap_bytes"] == 1 << 20 and sum(last["bucket_bytes"]) == last["parameter_bytes"]
    reductions = columns(processes(tmp_path)[0])[f"comm_n_{int(Communication.GRADIENTS)}"]
    assert reductions.tolist() == [1] * 41


def test_what_is_built_on_collectives_is_seen_and_undisturbed(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, LIBRARIES)
    assert done.returncode == 0, done.stderr
    assert sorted(truth(done.stdout)) == [0, 1]
    assert "recording stopped" not in done.stderr
    notes, _ = read_notes(processes(tmp_path)[1])
    rank = of_kind(notes, "rank")[-1]
    assert (rank["rank"], rank["world_size"], rank["backend"]) == (1, 2, "gloo")
    sent = {row["kind"] for row in of_kind(notes, "traffic")[-1]["rows"]}
    expected = {
        "all_gather",
        "reduce_scatter",
        "broadcast",
        "objects",
        "all_to_all",
        "all_reduce",
        "barrier",
        "receive",
    }
    assert expected <= sent, json.dumps(sorted(sent))
    seen = {int(name.rsplit("_", 1)[1]) for name in columns(processes(tmp_path)[1]) if name.startswith("comm_n_")}
    assert {Communication.ALL_GATHER, Communication.REDUCE_SCATTER, Communication.WAIT} <= seen


def test_a_process_on_its_own_has_nothing_wrapped_but_functions_that_it_never_calls(tmp_path: Path) -> None:
    source = """
from torch.distributed import Work
from torch.nn.parallel import DistributedDataParallel
before = torch.autograd._engine_run_backward
assert before.__module__ == "torch.autograd.graph" and not hasattr(before, "__wrapped__")
assert not hasattr(Work.wait, "__wrapped__")
print("TRUTH 0 0")
"""
    head = "import torch\n"
    script = tmp_path / "alone.py"
    script.write_text(head + source)
    done = on_ranks(
        tmp_path,
        f"import runpy, subprocess\nif rank == 0:\n    subprocess.run([sys.executable, {str(script)!r}], check=True)\n",
    )
    assert done.returncode == 0, done.stderr
    assert truth(done.stdout) == {0: 0.0}
