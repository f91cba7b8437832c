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

pytestmark = pytest.mark.flaky(reruns=2)  # another program that takes the core between two clocks is in one of them

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

KINDS = """
from torch import nn
from torch.distributed import _functional_collectives as functional
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

blocked = inside = 0

def timed(owner, name):
    original = getattr(owner, name, None)
    if original is None:
        return
    def call(*args, **kwargs):
        global blocked, inside
        if inside:
            return original(*args, **kwargs)
        inside, began = 1, time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            blocked, inside = blocked + time.perf_counter() - began, 0
    setattr(owner, name, call)

gathers = ("all_gather_into_tensor", "all_gather_single", "all_gather")
for name in (*gathers, "reduce_scatter_tensor", "reduce_scatter_single", "broadcast"):
    timed(dist, name)
timed(dist.Work, "wait")
timed(dist.ProcessGroup, "send")
timed(dist.ProcessGroup, "recv")
timed(functional, "wait_tensor")

def layers():
    return nn.Sequential(*[nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)) for _ in range(3)])

def train(name, forward_and_backward, optimizer):
    global blocked
    for step in range(10):
        if step == 2:  # the first steps warm up, and the last one's time goes on into what follows
            blocked = 0
        if step == 8:
            sys.stdout.write(f"{name} {rank} {blocked}\\n")
        forward_and_backward()
        optimizer.step()
        optimizer.zero_grad()

batch = torch.randn(256, 256)
mesh = init_device_mesh("cpu", (2,))

sharded = layers()
for part in (*sharded, sharded):
    fully_shard(part, mesh=mesh)
train("SHARDED", lambda: sharded(batch).square().mean().backward(), torch.optim.SGD(sharded.parameters(), lr=0.1))

parallel = layers()
for block in parallel:
    parallelize_module(block, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
train("TENSOR", lambda: parallel(batch).square().mean().backward(), torch.optim.SGD(parallel.parameters(), lr=0.1))

split = layers()
zero = ZeroRedundancyOptimizer(split.parameters(), optimizer_class=torch.optim.SGD, lr=0.1)
train("ZERO", lambda: split(batch).square().mean().backward(), zero)

part = layers()
schedule = Schedule1F1B(PipelineStage(part, rank, 2, torch.device("cpu")), 4, loss_fn=nn.functional.mse_loss)
train(
    "PIPELINE",
    lambda: schedule.step(batch) if rank == 0 else schedule.step(target=batch, losses=[]),
    torch.optim.SGD(part.parameters(), lr=0.1),
)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))

    def forward(self, given):
        return self.layers(given)

wrapped = FullyShardedDataParallel(
    nn.Sequential(*[Block() for _ in range(3)]),
    auto_wrap_policy=ModuleWrapPolicy({Block}),
    device_id=torch.device("cpu"),
)
train("WRAPPED", lambda: wrapped(batch).square().mean().backward(), torch.optim.SGD(wrapped.parameters(), lr=0.1))
"""
PARALLELISMS = ("SHARDED", "TENSOR", "ZERO", "PIPELINE", "WRAPPED")  # WRAPPED: FSDP1
GATHERING = ("SHARDED", "TENSOR", "WRAPPED")  # in forward

LIBRARIES = """
import copy, pickle
from torch import nn
from torch.distributed import _functional_collectives as functional

model = DDP(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)))
copy.deepcopy(model.module)
pickle.dumps(model.module)
buffer = torch.ones(4)
other = dist.new_group([0, 1])
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(4):
    if step == 2:
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
        dist.all_reduce(buffer, group=other)
        dist.all_reduce(buffer, group=dist.group.WORLD)
        assert functional.all_gather_tensor(buffer, 0, dist.group.WORLD).sum() == 8 * buffer[0]
        functional.reduce_scatter_tensor(buffer, "sum", 0, dist.group.WORLD) + 1
        dist.barrier()
    model(torch.randn(8, 64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
sys.stdout.write(f"TRUTH {rank} 0\\n")
"""


def processes(folder: Path) -> list[Path]:
    return sorted((folder / "run").glob("rank-*/*"))


def columns(process: Path) -> dict[str, Any]:
    return collect(process, final=True).steps.columns()


def truth(output: str, word: str = "TRUTH") -> dict[int, float]:
    """What the script printed after that word, by rank."""
    words = output.replace(word, f"\n{word}").splitlines()
    return {int(line.split()[1]): float(line.split()[2]) for line in words if line.startswith(word)}


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
    sent = {}
    for row in of_kind(notes, "traffic")[-1]["rows"]:
        sent[row["kind"]] = sent.get(row["kind"], 0) + row["calls"]
    expected = {
        "receive": 3,
        "objects": 1,
        "broadcast": 1,
        "all_to_all": 1,
        "all_reduce": 2,
        "all_gather": 1,
        "reduce_scatter": 1,
        "barrier": 1,
    }
    assert sent == expected, json.dumps(sent)
    described = [note["description"] for note in of_kind(notes, "group")]
    assert len(described) == 2 and described[0] == "default", described
    seen = {int(name.rsplit("_", 1)[1]) for name in columns(processes(tmp_path)[1]) if name.startswith("comm_n_")}
    assert {Communication.ALL_GATHER, Communication.REDUCE_SCATTER, Communication.RECEIVE} <= seen
    assert Communication.WAIT not in seen


def test_shards_tensors_optimizers_and_pipelines_wait_for_what_timers_in_the_script_say(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, KINDS)
    assert done.returncode == 0, done.stderr
    assert "recording stopped" not in done.stderr
    for rank, process in enumerate(processes(tmp_path)):
        made = {note["name"]: note["value"] for note in of_kind(read_notes(process)[0], "setting")}
        shape = {"schedule": "Schedule1F1B", "micro_batches": 4, "stages": 2, "stages_of_rank": 1}
        assert made["pipeline"] == shape
        table = columns(process)
        assert len(table["wall_ns"]) == 10 * len(PARALLELISMS)
        for number, word in enumerate(PARALLELISMS):
            steps = slice(10 * number + 2, 10 * number + 8)
            ours_s = table["part_11"][steps].sum() / 1e9
            told_s = truth(done.stdout, word)[rank]
            assert abs(ours_s - told_s) <= max(0.05 * told_s, 0.001 * 6), (word, rank, ours_s, told_s)
            waits = table.get(f"comm_ns_{int(Communication.WAIT)}")
            assert waits is None or not waits[steps].any(), word
            assert table["comm_forward"][steps].all() == (word in GATHERING), word


FOUR = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(2)])
fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)), reshard_after_forward=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(40):
    model(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    if rank == 2:
        time.sleep(0.1)
"""


def test_of_four_ranks_the_one_that_the_others_wait_for_is_named_with_its_line(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, FOUR, ranks=4)
    assert done.returncode == 0, done.stderr
    ranks = json.loads((tmp_path / "run" / "summary.json").read_text())["ranks"]
    assert ranks["recorded"] == [0, 1, 2, 3]
    late = ranks["late"]
    assert late["rank"] == 2 and late["share_of_steps"] > 0.8 and late["causes"][0]["what"] == "other"
    assert late["line"]["source"].strip() == "time.sleep(0.1)"
    by_rank = {row["rank"]: row["waiting_ms"] for row in ranks["rows"]}
    assert all(by_rank[rank] > 2 * by_rank[2] for rank in (0, 1, 3)), by_rank


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
