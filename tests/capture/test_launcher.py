"""Under `prof attach` a script is what it is under plain `python`: the two are run and compared."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PROF = [sys.executable, "-m", "profiler.cli.main", "attach", "--quiet", "--no-report"]

SHOW = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv, "name": __name__, "file": __file__, "path": sys.path, "cwd": os.getcwd(),
    "stdin": sys.stdin.read(), "flags": list(sys.flags), "package": __package__,
    "sitecustomize": getattr(sys.modules.get("sitecustomize"), "MARK", None),
    "excepthook": sys.excepthook is sys.__excepthook__,
    "modules": sorted(m for m in sys.modules if m.startswith(("profiler", "numpy", "torch"))),
}))
"""

TRAIN = """
import sys, torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def train(steps):
    for _ in range(steps):
        optimizer.zero_grad(); model(torch.ones(1, 2)).sum().backward(); optimizer.step()
"""


def run(command: list[str], folder: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, **kwargs)


def run_stdin(command: list[str], folder: Path, text: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, input=text, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def processes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("reports/*/processes/*.json")]


def test_a_script_sees_the_argv_name_path_and_stdin_that_it_would_see_under_python(tmp_path: Path) -> None:
    write(tmp_path, "src/show.py", SHOW)
    words = ["src/show.py", "--name", "x", "-m", "--", "--quiet", "a b"]
    plain = run_stdin([sys.executable, *words], tmp_path, "hello\n")
    recorded = run_stdin([*PROF, *words], tmp_path, "hello\n")
    assert recorded == plain


def test_a_module_runs_as_under_python_m(tmp_path: Path) -> None:
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "package/show.py", SHOW)
    plain = run_stdin([sys.executable, "-m", "package.show", "--lr", "1"], tmp_path, "")
    recorded = run_stdin([*PROF, "-m", "package.show", "--lr", "1"], tmp_path, "")
    assert recorded == plain


def test_the_users_own_sitecustomize_and_pythonpath_still_count(tmp_path: Path) -> None:
    write(tmp_path, "site/sitecustomize.py", "MARK = 'theirs'\n")
    write(tmp_path, "show.py", SHOW)
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    plain = run_stdin([sys.executable, "show.py"], tmp_path, "", env)
    recorded = run_stdin([*PROF, "show.py"], tmp_path, "", env)
    assert plain["sitecustomize"] == "theirs"
    assert recorded == plain


def test_a_module_of_the_users_called_profiler_stays_theirs(tmp_path: Path) -> None:
    write(tmp_path, "profiler.py", "WHOSE = 'theirs'\n")
    write(tmp_path, "train.py", TRAIN + "train(3)\nimport profiler\nprint(profiler.WHOSE)\n")
    done = run([*_prof_from_elsewhere(), "train.py"], tmp_path)
    assert done.stdout == "theirs\n", done.stderr


def _prof_from_elsewhere() -> list[str]:
    """The command without the current folder on its own import path, as the installed `prof` has it."""
    return [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", *PROF[1:]]


@pytest.mark.parametrize(
    ("ending", "code"),
    [("sys.exit(3)", 3), ("sys.exit('bad')", 1), ("raise ValueError('no')", 1), ("import os; os._exit(7)", 7), ("", 0)],
)
def test_exit_code_and_output_are_the_scripts_own(tmp_path: Path, ending: str, code: int) -> None:
    write(tmp_path, "train.py", TRAIN + f"train(3)\nprint('done')\n{ending}\n")
    plain = run([sys.executable, "train.py"], tmp_path)
    recorded = run([*PROF, "train.py"], tmp_path)
    assert (recorded.returncode, recorded.stdout) == (code, plain.stdout)
    assert recorded.stderr == plain.stderr


def test_the_traceback_of_an_error_deep_in_forward_and_backward_shows_no_frame_of_ours(tmp_path: Path) -> None:
    text = TRAIN + (
        "class Bad(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        raise RuntimeError('planted')\n"
        "train(3)\n"
        "try:\n"
        "    Bad(2, 2)(torch.ones(1, 2))\n"
        "except RuntimeError as error:\n"
        "    raise ValueError('outer') from error\n"
    )
    write(tmp_path, "train.py", text)
    done = run([*PROF, "train.py"], tmp_path)
    assert done.returncode == 1
    assert "planted" in done.stderr
    assert "outer" in done.stderr
    assert "capture" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_script_killed_by_a_signal_is_seen_so_by_our_parent(tmp_path: Path, number: int) -> None:
    write(tmp_path, "train.py", TRAIN + f"train(3)\nimport os; os.kill(os.getpid(), {int(number)})\n")
    done = run([*PROF, "train.py"], tmp_path)
    assert done.returncode == -number
    record = json.loads(next(tmp_path.glob("reports/*/run.json")).read_text())
    assert record["signal"] == signal.Signals(number).name


WAITS = """
import signal, sys, time
def handler(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    sys.exit(5)
for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
    signal.signal(getattr(signal, name), handler)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_sent_to_us_alone_reaches_the_script_once(tmp_path: Path, name: str) -> None:
    write(tmp_path, "waits.py", WAITS)
    child = subprocess.Popen([*PROF, "waits.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(getattr(signal, name))
    assert child.stdout.read() == f"got {name}\n"
    assert child.wait(30) == 5


def test_interrupted_training_keeps_its_record_and_its_traceback(tmp_path: Path) -> None:
    text = TRAIN + "print('ready', flush=True)\nwhile True: train(1)\n"
    write(tmp_path, "train.py", text)
    child = subprocess.Popen(
        [*PROF, "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(1.0)
    below = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    child.send_signal(signal.SIGINT)
    try:
        _, error = child.communicate(timeout=60)
    finally:
        child.kill()
        for pid in map(int, below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGINT
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert list(tmp_path.glob("reports/*/rank-00000/*/thread-0-000000.tape"))


def test_every_python_under_the_command_checks_in(tmp_path: Path) -> None:
    write(tmp_path, "train.py", TRAIN + "train(2)\n")
    write(tmp_path, "run.sh", f"{sys.executable} -c 'pass'\n{sys.executable} train.py\n")
    done = run([*PROF, "--", "bash", "run.sh"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(process["role"] for process in processes(tmp_path)) == ["python", "torch"]


def test_the_kill_switch_runs_the_script_with_nothing_of_ours(tmp_path: Path) -> None:
    write(tmp_path, "show.py", SHOW + "print('TRAINPROF_RUN' in os.environ)\n")
    done = run([*PROF, "show.py"], tmp_path, env={**os.environ, "PROF_DISABLE": "1"})
    assert done.stdout.splitlines()[-1] == "False"
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["missing.py"], "there is no script missing.py"),
        (["--", "no-such-command-anywhere"], "there is no script and no command"),
        ([], "nothing to run"),
        (["--name", "a/b", "show.py"], "cannot be the name of a run"),
        (["--name", "taken", "show.py"], "exists already"),
        (["-o", "file/below", "show.py"], "cannot write to"),
    ],
)
def test_bad_input_gets_one_sentence_and_a_code_of_ours(tmp_path: Path, words: list[str], sentence: str) -> None:
    write(tmp_path, "show.py", SHOW)
    write(tmp_path, "reports/taken/run.json", "{}")
    write(tmp_path, "file", "")
    done = run([*PROF, *words], tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_syntax_error_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    write(tmp_path, "broken.py", "def f(:\n")
    plain = run([sys.executable, "broken.py"], tmp_path)
    recorded = run([*PROF, "broken.py"], tmp_path)
    assert (recorded.returncode, recorded.stderr) == (1, plain.stderr)


def test_torchrun_records_each_rank_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "train.py", TRAIN + "train(4)\n")
    done = run(
        [*PROF, "--", sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "train.py"], tmp_path
    )
    assert done.returncode == 0, done.stderr
    ranks = sorted(path.name for path in tmp_path.glob("reports/*/rank-*"))
    assert ranks == ["rank-00000", "rank-00001"]
