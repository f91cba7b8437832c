"""A rank whose network is really slow: each rank in a network namespace of its own, on one bridge, one limited by the
kernel in what it sends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import HEAD, environment

MEGABITS = 400
BYTES = 8_000_000  # more than what the kernel takes off a sender at once
SLOW = 3
BRIDGE = f"""
set -e
mount -t tmpfs none /run
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
for n in 0 1 2 3; do
  ip netns add n$n
  ip link add v$n type veth peer name e$n
  ip link set v$n master br0 up
  ip link set e$n netns n$n
  ip netns exec n$n sh -c "ip link set lo up; ip addr add 10.9.0.1$n/24 dev e$n; ip link set e$n up"
done
ip netns exec n{SLOW} tc qdisc add dev e{SLOW} root tbf rate {MEGABITS}mbit burst 256kb latency 200ms
"""
EACH = """
for n in 0 1 2 3; do
  RANK=$n LOCAL_RANK=$n GLOO_SOCKET_IFNAME=e$n MASTER_ADDR=10.9.0.10 ip netns exec n$n "$0" "$@" & pids="$pids $!"
done
for pid in $pids; do wait $pid || exit 1; done
"""
TRAINING = (
    HEAD
    + """
pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
message = torch.zeros(2_000_000)  # 160 ms at 400 Mbit/s
for step in range(25):
    model(torch.randn(8, 64)).sum().backward()
    dist.all_reduce(message, group=pairs[rank // 2])
    if rank % 2 == 0:
        dist.send(message, (rank + 1) % 4)
        dist.recv(message, (rank - 1) % 4)
    else:
        dist.recv(message, (rank - 1) % 4)
        dist.send(message, (rank + 1) % 4)
    optimizer.step()
    optimizer.zero_grad()
"""
)


def allowed() -> bool:
    """Whether this kernel and user may make namespaces with a bridge between them."""
    if not all(map(shutil.which, ("unshare", "ip", "tc"))):
        return False
    return subprocess.run(["unshare", "-n", "-m", "sh", "-c", BRIDGE], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not allowed(), reason="no right to make network namespaces with a bridge")
def test_what_a_limited_rank_sends_is_slow_and_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAINING)
    prof = [sys.executable, "-m", "profiler.cli.main", "attach", "-o", str(tmp_path), "--name", "run"]
    command = [*prof, "--", "bash", "-c", EACH, sys.executable, str(tmp_path / "train.py")]
    done = subprocess.run(
        ["unshare", "-n", "-m", "sh", "-c", f'{BRIDGE}\nexec "$@"', "bridged", *command],
        cwd=tmp_path,
        env=environment(4),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    slow = summary["ranks"]["slow_links"]
    sent_ms = BYTES * 8 / (MEGABITS * 1e6) * 1e3
    assert slow and all(SLOW in link["ranks"] for link in slow), slow
    pair = next(link for link in slow if link["pair"])
    assert pair["ranks"] == [SLOW, 0]  # what it sends; what it receives is not limited
    assert pair["ms"] == pytest.approx(sent_ms, rel=0.4)
    finding = next(each for each in summary["findings"] if each["rule"] == "comm/slow-link")
    assert finding["evidence"]["excess_ms"] > 0.4 * sent_ms
