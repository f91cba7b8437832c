"""Run a script on two ranks of gloo, under the profiler or without it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HEAD = """\
import os, sys, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

torch.set_num_threads(1)
torch.manual_seed(0)
dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
"""
EACH = """\
trap 'kill $(jobs -p)' TERM
for r in $(seq 0 $((WORLD_SIZE - 1))); do RANK=$r LOCAL_RANK=$r "$@" & done
wait"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(ranks: int) -> dict[str, str]:
    """What a launcher of ranks sets, but for the rank itself."""
    return {
        **os.environ,
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }


def in_namespace(setup: str, *flags: str) -> list[str]:
    """What stands before a command that is to run in a network namespace of its own, set up by a shell."""
    return ["unshare", "-n", *flags, "sh", "-c", f'{setup}\nexec "$@"', "namespace"]


def may_use(namespace: Sequence[str]) -> bool:
    """Whether this kernel and user may set up such a namespace."""
    if not all(map(shutil.which, ("unshare", "ip", "tc"))):
        return False
    return subprocess.run([*namespace, "true"], capture_output=True).returncode == 0


def on_ranks(
    folder: Path,
    source: str,
    *arguments: str,
    ranks: int = 2,
    profiled: bool = True,
    timeout_s: float = 120,
    each: str = EACH,
    inside: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run `HEAD` and `source` on every rank by the shell's `each`; the run's folder is `folder / "run"`."""
    script = folder / "train.py"
    script.write_text(HEAD + source)
    command = ["bash", "-c", each, "ranks", sys.executable, str(script), *arguments]
    if profiled:
        prof = [sys.executable, "-m", "profiler.cli.main", "attach", "-o", str(folder), "--name", "run"]
        command = [*prof, "--", *command]
    return subprocess.run(
        [*inside, *command], cwd=folder, env=environment(ranks), capture_output=True, text=True, timeout=timeout_s
    )
