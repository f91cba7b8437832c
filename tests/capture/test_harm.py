"""Nothing that goes wrong with us may change, stop or hide anything of the training."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from profiler.capture import gate
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig

DRAINED_S = 0.5  # by then the sampler's thread has moved what was recorded to the tape, several times over
ATTACH = [sys.executable, "-m", "profiler.cli.main", "attach", "-o", "runs", "--name", "run"]

# what a training leaves behind: parameters, random states, what its workers drew
TRAINING = """
import hashlib, random, sys
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Data(Dataset):
    def __len__(self):
        return 96
    def __getitem__(self, i):
        return torch.randn(8) + random.random() + np.random.rand(), torch.randint(0, 3, ()).item()

def main():
    random.seed(0); np.random.seed(0); torch.manual_seed(0); torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    for epoch in range(3):
        for x, y in DataLoader(
            Data(), batch_size=4, shuffle=True, num_workers=WORKERS, multiprocessing_context=CONTEXT
        ):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    digest.update(torch.get_rng_state().numpy().tobytes())
    digest.update(repr((random.getstate(), np.random.get_state()[1].tolist())).encode())
    print(digest.hexdigest())

if __name__ == "__main__":
    main()
"""


def run(command: list[str], folder: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL, **kwargs
    )


@pytest.mark.parametrize(
    ("workers", "context"),
    [("0", "None"), ("2", "'fork'"), pytest.param("2", "'spawn'", marks=pytest.mark.slow)],
    ids=["in process", "fork", "spawn"],
)
def test_parameters_and_random_states_are_bit_identical(workers: str, context: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING.replace("WORKERS", workers).replace("CONTEXT", context))
    plain = run([sys.executable, "train.py"], tmp_path)
    recorded = run([*ATTACH, "--quiet", "train.py"], tmp_path)
    assert len(plain.stdout.strip()) == 64, plain.stderr
    assert recorded.stdout == plain.stdout, recorded.stderr
    assert json.loads((tmp_path / "runs/run/summary.json").read_text())["steps"]["count"] == 72


def train() -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    data = TensorDataset(torch.randn(32, 4), torch.randint(0, 2, (32,)))
    for x, y in DataLoader(data, batch_size=4, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


class FailingGate(gate.PythonGate):
    """The n-th event raises, and so does each one after it."""

    fails_at = 0

    def __init__(self) -> None:
        super().__init__()
        left, keep = self.fails_at, self.record

        def record(event: tuple[int, int]) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise RuntimeError("planted")
            keep(event)

        self.record = record


@pytest.mark.parametrize("event", range(24))
def test_an_error_in_any_hook_switches_us_off_with_one_line_and_the_training_is_right(
    event: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = train()
    (tmp_path / "processes").mkdir()
    monkeypatch.setattr(FailingGate, "fails_at", event)
    monkeypatch.setattr("profiler.capture.session.Gate", FailingGate)
    capfd.readouterr()
    session = begin(CaptureConfig(tmp_path, deep=False))
    try:
        parameters = train()
    finally:
        end(session)
    assert not session.active
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(parameters, expected, strict=True))
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("prof: recording stopped by an error of its own in ")
    assert lines[0].endswith("the training goes on.")


def small_files(limit_bytes: int) -> Callable[[], None]:
    """As on a disk that is full: no file may grow beyond this."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return limit


SIMPLE = """
import torch
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(STEPS):
    optimizer.zero_grad(); model(torch.ones(2, 4)).sum().backward(); optimizer.step()
print("trained")
"""


def test_a_full_disk_stops_the_recording_and_not_the_training(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SIMPLE.replace("STEPS", "50"))
    done = run([*ATTACH, "train.py"], tmp_path, preexec_fn=small_files(64_000))
    assert done.returncode == 0
    assert done.stdout == "trained\n"
    assert done.stderr.count("recording stopped by an error of its own in writing the record") == 1
    assert "Traceback" not in done.stderr


def test_a_run_folder_that_vanishes_stops_nothing(tmp_path: Path) -> None:
    text = "import shutil; shutil.rmtree('runs')\n" + SIMPLE.replace("STEPS", "50")
    (tmp_path / "train.py").write_text(text)
    done = run([*ATTACH, "train.py"], tmp_path)
    assert done.returncode == 0
    assert done.stdout == "trained\n"
    assert "Traceback" not in done.stderr


def test_a_read_only_folder_is_refused_before_the_training_begins(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SIMPLE.replace("STEPS", "50"))
    (tmp_path / "runs").write_text("a file, so that no folder can be made there, whoever we are")
    done = run([*ATTACH, "train.py"], tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_training_killed_at_any_time_leaves_its_report(number: signal.Signals, tmp_path: Path) -> None:
    text = SIMPLE.replace("range(STEPS)", "iter(int, 1)").replace("optimizer.step()", "optimizer.step(); seen()")
    count = "n = 0\ndef seen():\n    global n\n    n += 1\n    if n == 300: print('going', flush=True)\n"
    (tmp_path / "train.py").write_text(count + text)
    process = subprocess.Popen(
        [*ATTACH, "--quiet", "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    time.sleep(DRAINED_S)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), number)
    try:
        process.wait(120)
    finally:
        process.kill()
        for pid in map(int, children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert process.returncode == -number
    summary = json.loads((tmp_path / "runs/run/summary.json").read_text())
    assert summary["steps"]["count"] >= 299
    assert number.name in json.dumps(summary)


def test_when_we_are_killed_too_the_report_can_be_made_later(tmp_path: Path) -> None:
    text = SIMPLE.replace("range(STEPS)", "iter(int, 1)").replace("optimizer.step()", "optimizer.step(); seen()")
    count = "n = 0\ndef seen():\n    global n\n    n += 1\n    if n == 300: print('going', flush=True)\n"
    (tmp_path / "train.py").write_text(count + text)
    process = subprocess.Popen(
        [*ATTACH, "--quiet", "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    time.sleep(DRAINED_S)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    done = run([sys.executable, "-m", "profiler.cli.main", "report", "--quiet", "runs/run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "runs/run/summary.json").read_text())["steps"]["count"] >= 299


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("print('hello')\n", "no training step was seen"),
        ("import torch\nprint(torch.ones(2).sum())\n", "no training step was seen"),
        ("import subprocess, sys\nsubprocess.run([sys.executable, '-E', '-c', 'import torch'])\n", "-E"),
        (SIMPLE.replace("STEPS", "5"), "too short to judge"),
    ],
    ids=["no torch", "no training", "python -E", "five steps"],
)
def test_a_run_with_nothing_to_judge_says_so_and_why(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(text)
    done = run([*ATTACH, "train.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stderr.split())
    assert said in words.lower() or said in words
    verdict = json.loads((tmp_path / "runs/run/summary.json").read_text())["verdict"]
    assert verdict["bottleneck"] == "none"


def test_a_second_profiler_is_left_to_its_work(tmp_path: Path) -> None:
    text = (
        "import torch\n"
        "model = torch.nn.Linear(4, 4)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as theirs:\n"
        "    for _ in range(60):\n"
        "        optimizer.zero_grad(); model(torch.ones(2, 4)).sum().backward(); optimizer.step()\n"
        "print(sum(row.count for row in theirs.key_averages() if row.key == 'aten::linear'))\n"
    )
    (tmp_path / "train.py").write_text(text)
    done = run([*ATTACH, "--quiet", "train.py"], tmp_path)
    assert done.stdout == "60\n", done.stderr
    ours = [line for line in done.stderr.splitlines() if not line.startswith("USDT:")]  # the rest are kineto's
    assert ours == []
