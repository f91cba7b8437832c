"""A mistake on the command line gets one sentence that says what to do, and exit code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attach", "--nmae", "x", "train.py"], "prof attach: no such option"),
        (["trace"], "prof trace: missing argument"),
        (["atach", "train.py"], "prof: no such command"),
        (["trace", "--workers", "none", "x.json"], "prof trace: invalid value for '--workers'"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "profiler.cli.main", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(said)
    assert "--help`." in done.stderr


def test_prof_alone_shows_its_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "profiler.cli.main"], capture_output=True, text=True)
    assert "Commands:" in done.stdout + done.stderr and "attach" in done.stdout + done.stderr
