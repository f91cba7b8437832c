"""From the training's end to the report on disk.

10,000 steps: a real training under `prof attach`, from its last line to the end of the command.
1,000,000 steps: the record of such a training, written by our own writer at once and reduced while it is
written, as `prof attach` does; then what is left is reduced, judged and rendered by `prof report`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.commands import prof
from profiler.analysis.follow import follow
from profiler.record.run_folder import write_run_json
from profiler.record.tape import Tape
from profiler.record.vocabulary import DataWait, Flag, Forward, Kind, Name, Optimizer, code

SCRIPT = """
import time, torch
torch.set_num_threads(1)
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
data = torch.utils.data.TensorDataset(torch.randn(20000, 8), torch.randn(20000, 8))
for inputs, targets in torch.utils.data.DataLoader(data, batch_size=2):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(inputs), targets).backward()
    optimizer.step()
print(time.time(), flush=True)
"""

# one step: (name, detail, flags of the push, length in ns)
STEP = (
    (Name.DATA_WAIT, DataWait.NEXT, 0, 120_000),
    (Name.OPTIMIZER, Optimizer.ZERO_GRAD, 0, 20_000),
    (Name.FORWARD, Forward.MODULE, Flag.TRAINING | Flag.GRAD, 260_000),
    (Name.FORWARD, Forward.LOSS, Flag.TRAINING | Flag.GRAD, 40_000),
    (Name.BACKWARD, 0, 0, 380_000),
    (Name.OPTIMIZER, Optimizer.STEP, 0, 150_000),
)
GAP_NS = 4_000


def after_ten_thousand_steps() -> float:
    """Seconds from the script's last line to the end of `prof attach`, its report written."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "train.py").write_text(SCRIPT, "utf-8")
        done = subprocess.run(prof(folder, "run", "train.py"), cwd=folder, capture_output=True, text=True, check=True)
        ended = time.time()
        assert (folder / "run" / "report.html").exists()
        return ended - float(done.stdout.split()[-1])


def after_a_million_steps(steps: int = 1_000_000) -> float:
    """Seconds that `prof report` takes when a run of `steps` steps has just ended."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        write_record(run, steps)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "profiler.cli.main", "report", "--quiet", str(run)], check=True, capture_output=True
        )
        assert (run / "report.html").exists()
        return time.perf_counter() - began


def write_record(run: Path, steps: int) -> None:
    """The record of a run, followed while it is written."""
    process = run / "rank-00000" / "1"
    process.mkdir(parents=True)
    (run / "processes").mkdir()
    write_run_json(run, command=["python", "train.py"], cores=2, started_unix_s=time.time())
    tape = Tape(lambda: process, "thread-0")
    events = [
        (code(Kind.PUSH, name, detail, 0, flags), code(Kind.POP, name, detail), length)
        for name, detail, flags, length in STEP
    ]
    now = time.perf_counter_ns()
    for number in range(steps):
        for push, pop, length in events:
            tape.write_value(push, now)
            now += length + 997 * (number * 31 % 17)
            tape.write_value(pop, now)
            now += GAP_NS
        if number % 60_000 == 0:
            follow(run)
