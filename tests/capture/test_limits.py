"""What a container leaves a process, read from trees of cgroup files."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.capture import limits


def tree(root: Path, files: dict[str, str]) -> Path:
    """A system whose files these are."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_2_the_least_of_a_group_and_its_ancestors_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/jobs/train\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/jobs/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/jobs/memory.max": "max\n",
            "sys/fs/cgroup/jobs/train/cpu.max": "max 100000\n",
            "sys/fs/cgroup/jobs/train/memory.max": "2147483648\n",
            "sys/fs/cgroup/jobs/train/cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
        },
    )
    assert limits.core_quota(root) == 2.5
    assert limits.memory_limit_bytes(root) == 2 << 30
    assert limits.used_cpu_ns(root) == 1_500_000


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../host/path/that/is/not/here\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/memory.max": "1073741824\n",
        },
    )
    assert limits.core_quota(root) == 4.0
    assert limits.memory_limit_bytes(root) == 1 << 30


def test_version_1_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:name=systemd:/x\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": "536870912\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpuacct.usage": "77\n",
        },
    )
    assert limits.core_quota(root) == 1.5
    assert limits.memory_limit_bytes(root) == 512 << 20
    assert limits.used_cpu_ns(root) == 77


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.controllers": "", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {"proc/self/cgroup": "2:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"},
        {"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/cpu.max": "nonsense"},
    ],
    ids=["no cgroups", "no limit", "no quota", "damaged"],
)
def test_what_nothing_limits_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    root = tree(tmp_path, files)
    assert limits.core_quota(root) is None
    assert limits.memory_limit_bytes(root) is None
    assert limits.used_cpu_ns(root) is None


def test_cores_are_whole_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "core_quota", lambda: 0.5)
    assert limits.cores() == 1
    monkeypatch.setattr(limits, "core_quota", lambda: None)
    assert limits.cores() >= 1


def test_memory_is_bounded_by_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "memory_limit_bytes", lambda: 1 << 20)
    assert limits.memory_bytes() == 1 << 20
