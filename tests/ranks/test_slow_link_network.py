"""A rank whose network is really slow: each rank in a network namespace of its own, on one bridge, one limited by the
kernel in what it sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launching import in_namespace, may_use, on_ranks

MEGABITS = 400
BYTES = 8_000_000  # more than what the kernel takes off a sender at once
SLOW = 3
BRIDGE = in_namespace(
    f"""
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
""",
    "-m",
)
EACH = """
for n in 0 1 2 3; do
  RANK=$n LOCAL_RANK=$n GLOO_SOCKET_IFNAME=e$n MASTER_ADDR=10.9.0.10 ip netns exec n$n "$@" & pids="$pids $!"
done
for pid in $pids; do wait $pid || exit 1; done
"""
TRAINING = """
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


@pytest.mark.slow
@pytest.mark.skipif(not may_use(BRIDGE), reason="no right to make network namespaces with a bridge")
def test_what_a_limited_rank_sends_is_slow_and_it_is_named(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, TRAINING, ranks=4, timeout_s=200, each=EACH, inside=BRIDGE)
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
