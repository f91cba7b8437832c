"""Cost in the training loop in instructions and cache misses, counted by valgrind: what no other process can disturb.

One process under cachegrind builds the training and forks; each child makes so many steps, recorded or not, and leaves
its count. Of two children that differ in their steps alone, the difference is that of the steps. The same code on the
same inputs: two children alike differ by less than the figure that stands in `control`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EVENTS = ("Ir", "I1mr", "ILmr", "D1mr", "DLmr", "D1mw", "DLmw")
L1_MISS_CYCLES, LL_MISS_CYCLES = 10, 100  # as callgrind's own estimate of cycles has them
FEW, MANY = 4, 204  # steps
LIMIT_S = 3600

CHILDREN = """
import gc, os, sys, tempfile
from pathlib import Path
import torch
from benchmarks.overhead import CASES, training
from benchmarks.turns import WARM_STEPS
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig

torch.set_num_threads(1)
step = training(*CASES[sys.argv[1]])
for _ in range(3):
    step()
gc.collect()
gc.freeze()
for plan in sys.argv[3:]:
    recorded, steps = plan.split(",")
    child = os.fork()
    if not child:
        if recorded == "on":
            run = Path(tempfile.mkdtemp(dir=sys.argv[2]))
            (run / "processes").mkdir()
            session = begin(CaptureConfig(run, deep=False))
        for _ in range(WARM_STEPS + int(steps)):
            step()
        if recorded == "on":
            assert session.active
            end(session)
        os._exit(0)
    os.waitpid(child, 0)
    print(plan, child, flush=True)
os._exit(0)
"""


@dataclass(frozen=True)
class Count:
    """Of one step: what it takes without recording, and what recording adds."""

    case: str
    instructions: float
    added: float
    control: float  # what two children without recording differ by
    cycles: float  # estimated: instructions, 10 a miss of the first cache, 100 a miss of the last
    added_cycles: float

    @property
    def ratio(self) -> float:
        """Estimated cycles of a step with recording over those without."""
        return 1 + self.added_cycles / self.cycles


def run(cases: tuple[str, ...]) -> Iterator[Count]:
    """Each case. Raises RuntimeError where there is no valgrind, or torch does not run under it."""
    if shutil.which("valgrind") is None:
        raise RuntimeError("valgrind is not installed, so instructions are not counted")
    for case in cases:
        yield count(case)


def count(case: str) -> Count:
    """One training."""
    plans = [f"{recorded},{steps}" for recorded in ("off", "on", "off") for steps in (FEW, MANY)]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("valgrind", "--tool=cachegrind", "--cache-sim=yes", f"--cachegrind-out-file={folder}/%p.out"),
            *(sys.executable, "-c", CHILDREN, case, folder, *plans),
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
        children = [line.split()[-1] for line in done.stdout.splitlines()]
        if len(children) != len(plans):
            raise RuntimeError(f"the training did not run under valgrind: {done.stderr.strip().splitlines()[-1:]}")
        totals = [_totals(Path(folder) / f"{child}.out") for child in children]
    off, on, again = (_of_a_step(totals[at], totals[at + 1]) for at in (0, 2, 4))
    return Count(
        case, off["Ir"], on["Ir"] - off["Ir"], again["Ir"] - off["Ir"], _cycles(off), _cycles(on) - _cycles(off)
    )


def _totals(path: Path) -> dict[str, int]:
    text = path.read_text()
    names = re.findall(r"^events: (.*)$", text, re.MULTILINE)[0].split()
    values = re.findall(r"^summary: (.*)$", text, re.MULTILINE)[0].split()
    return dict(zip(names, map(int, values), strict=True))


def _of_a_step(few: dict[str, int], many: dict[str, int]) -> dict[str, float]:
    return {name: (many[name] - few[name]) / (MANY - FEW) for name in EVENTS}


def _cycles(counted: dict[str, float]) -> float:
    last = counted["ILmr"] + counted["DLmr"] + counted["DLmw"]
    first = counted["I1mr"] + counted["D1mr"] + counted["D1mw"]
    return counted["Ir"] + L1_MISS_CYCLES * first + LL_MISS_CYCLES * last
