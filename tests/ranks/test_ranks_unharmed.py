"""Several ranks train as if nobody looked, and an error of ours ends the recording alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import EACH, on_ranks

TRAINING = """
import hashlib
from torch.distributed.fsdp import fully_shard

def digest(tensors):
    bytes_of = b"".join(tensor.detach().flatten().contiguous().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(bytes_of).hexdigest()

layers = [torch.nn.Linear(32, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 4)]
plain = torch.nn.Sequential(*layers)
model = DDP(plain, find_unused_parameters=True, bucket_cap_mb=1)
optimizer = torch.optim.AdamW(model.parameters())
generator = torch.Generator().manual_seed(rank)
for step in range(24):
    loss = model(torch.randn(8, 32, generator=generator)).square().mean()
    loss.backward(retain_graph=step % 5 == 0)
    if step % 5 == 0:
        loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    dist.all_reduce(norm)
    optimizer.step()
    optimizer.zero_grad()
assert not any(parameter._backward_hooks for parameter in plain.parameters())
assert plain.state_dict().keys() == torch.nn.Sequential(*layers).state_dict().keys()
sharded = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
for part in (*sharded, sharded):
    fully_shard(part, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
for step in range(5):
    sharded(torch.randn(4, 16, generator=generator)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
local = [parameter.to_local() for parameter in sharded.parameters()]
sys.stdout.write(f"DIGEST {rank} {digest([*plain.state_dict().values(), *local])}\\n")
"""

BROKEN = """
model = DDP(torch.nn.Linear(16, 16))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(20):
    model(torch.ones(4, 16)).sum().backward()
    if step == 10 and rank == 0:
        for name, module in list(sys.modules.items()):
            if name.endswith("capture.traffic"):
                module.Traffic.row = None
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == 2
    optimizer.step()
sys.stdout.write(f"DONE {rank}\\n")
"""

LASTING = """
model = DDP(torch.nn.Linear(64, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
began = time.monotonic()
for step in range(100_000):
    model(torch.randn(8, 64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    over = torch.tensor(float(time.monotonic() - began > 1))
    dist.all_reduce(over)
    if over:
        break
open(f"last-{rank}", "w").write(str(time.time()))
"""


def lines(output: str, word: str) -> list[str]:
    return sorted(line for line in output.splitlines() if line.startswith(word))


def test_the_same_bits_are_trained_with_and_without_us(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    watched, alone = on_ranks(tmp_path / "with", TRAINING), on_ranks(tmp_path, TRAINING, profiled=False)
    assert (watched.returncode, alone.returncode) == (0, 0), watched.stderr + alone.stderr
    assert lines(watched.stdout, "DIGEST") == lines(alone.stdout, "DIGEST")
    assert len(lines(alone.stdout, "DIGEST")) == 2


def test_an_error_of_ours_in_a_collective_ends_the_recording_and_not_the_job(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, BROKEN)
    assert done.returncode == 0, done.stderr
    assert lines(done.stdout, "DONE") == ["DONE 0", "DONE 1"]
    assert done.stderr.count("recording stopped by an error of its own in all_reduce") == 1
    assert "rank 0: recording stopped" in " ".join(done.stderr.split())


def ending_s(folder: Path, profiled: bool) -> float:
    """From the last line of the training to the end of all ranks."""
    folder.mkdir()
    done = on_ranks(folder, LASTING, each=f"{EACH}\ndate +%s.%N > ended", profiled=profiled)
    last = [float(path.read_text()) for path in folder.glob("last-*")]
    assert done.returncode == 0 and len(last) == 2, done.stderr
    assert (folder / "run" / "summary.json").exists() == profiled
    return float((folder / "ended").read_text()) - max(last)


@pytest.mark.alone
@pytest.mark.flaky(reruns=2)  # another program that takes the cores while ranks end
def test_a_job_ends_no_more_than_two_seconds_later(tmp_path: Path) -> None:
    assert ending_s(tmp_path / "with", profiled=True) - ending_s(tmp_path / "alone", profiled=False) < 2
