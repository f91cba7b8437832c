"""A network that is really slow: a loopback device in a namespace of its own, limited by the kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launching import in_namespace, may_use, on_ranks

MEGABITS = 400
LIMITED = in_namespace(
    f"set -e; ip link set lo up; tc qdisc add dev lo root tbf rate {MEGABITS}mbit burst 256kb latency 100ms"
)

TRAINING = """
model = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(4)])
model = DDP(model, bucket_cap_mb=1, gradient_as_bucket_view=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
batch = torch.randn(64, 512)
for step in range(40):
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.skipif(not may_use(LIMITED), reason="no right to make a network namespace with a limited loopback")
def test_transfer_takes_what_a_limited_network_makes_of_it(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, TRAINING, inside=LIMITED)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    ranks = summary["ranks"]
    sent_bytes = ranks["reduction"]["parameter_bytes"]
    # two ranks send all gradients once each, over the same device
    at_least_ms = 2 * sent_bytes * 8 / (MEGABITS * 1e6) * 1e3
    taken_ms = ranks["reduction"]["total_ms"]
    assert 0.8 * at_least_ms <= taken_ms <= 2.5 * at_least_ms
    assert ranks["network_ms"] + (ranks["hidden_ms"] or 0) >= 0.8 * at_least_ms
    row = next(row for row in ranks["collectives"] if row["kind"] == "gradients (DDP)")
    assert row["gigabytes_per_s"] <= MEGABITS / 8e3 / 2 * 1.25
    assert summary["verdict"]["bottleneck"] == "communication", summary["verdict"]
    assert ranks["network_ms"] > 3 * ranks["waiting_ms"]
