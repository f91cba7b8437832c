"""prof plan looks at a script, which may save, log and delete before its first backward pass: no file changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

WRITES = """
import json, os
import numpy as np
from pathlib import Path
import torch
from torch import nn

model = nn.Linear(64, 64)
os.makedirs("out", exist_ok=True)
torch.save({"model": model.state_dict()}, "out/ckpt.pt")
torch.save(model, Path("out") / "ckpt.pt")
with open("out/log.txt", "a") as log:
    log.write("begins")
assert open("out/log.txt").read() == "mine" + "begins"
Path("out/config.json").write_text(json.dumps({"a": 1}))
assert json.loads(Path("out/config.json").read_text()) == {"a": 1}
np.save("out/array.npy", np.zeros(3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = model(torch.ones(8, 64)).sum()
loss.backward()
Path("trained").touch()
"""


def plan(script: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "profiler.cli.main", "plan", str(script), "--gpu", "h100"]
    elsewhere = script.parents[1] / "tmp"  # temporary folders may be written, and pytest's is one
    elsewhere.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(elsewhere)}
    return subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=240, env=environment)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepared(folder: Path, text: str) -> Path:
    folder = folder / "mine"
    (folder / "out").mkdir(parents=True)
    torch.save({"it": 1000}, folder / "out" / "ckpt.pt")
    (folder / "out" / "log.txt").write_text("mine")
    (folder / "out" / "config.json").write_text("{}")
    script = folder / "train.py"
    script.write_text(text)
    return script


def test_what_a_script_writes_reaches_no_file_of_the_users(tmp_path: Path) -> None:
    script = prepared(tmp_path, WRITES)
    before = contents(script.parent)
    done = plan(script)
    assert done.returncode == 0, done.stderr
    assert contents(script.parent) == before


def test_a_script_that_would_delete_is_stopped_in_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    script = prepared(tmp_path, "import shutil, torch\nshutil.rmtree('out')\n" + WRITES)
    before = contents(script.parent)
    done = plan(script)
    assert done.returncode != 0
    assert "prof plan only looks at a script" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(script.parent) == before
