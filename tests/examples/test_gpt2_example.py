"""The GPT-2 example: at each step the first finding is the next cure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.flaky(reruns=2)  # another program on the machine can upset what lasts for seconds

EXAMPLE = Path(__file__).parents[2] / "examples" / "gpt2"
sys.path.insert(0, str(EXAMPLE))
from table import BEGIN, CURES, END, promising, rows  # noqa: E402


def summary(step_ms: float, rule: str | None) -> dict[str, Any]:
    gain = {"step_ms_low": step_ms / 2, "step_ms_high": step_ms / 1.5}
    return {
        "steps": {"mean_ms": step_ms},
        "verdict": {"bottleneck": "host-overhead" if rule else "compute"},
        "findings": [{"rule": "compute/healthy", "gain": None}, *([{"rule": rule, "gain": gain}] if rule else [])],
    }


def test_every_cure_is_marked_in_the_source() -> None:
    source = (EXAMPLE / "train.py").read_text()
    assert all(f"slow({number})" in source for number in range(1, len(CURES) + 1))
    assert len(CURES) == 8


def test_a_row_puts_the_promise_beside_the_next_run() -> None:
    summaries = [summary(100.0 / (number + 1), rule) for number, (rule, _) in enumerate(CURES)]
    lines = rows([*summaries, summary(10.0, None)])
    assert lines[2].startswith("| 0 | 100.0 ms | host-overhead | `host/python-line` | 50.0 to 66.7 ms | 50.0 ms |")
    assert lines[-1] == "| 8 | 10.0 ms | compute | | | | |"
    assert promising(summary(1.0, None)) is None


def test_the_readme_has_a_place_for_the_table() -> None:
    text = (EXAMPLE / "README.md").read_text()
    assert text.index(BEGIN) < text.index(END)


@pytest.mark.slow
@pytest.mark.parametrize("cured", range(len(CURES) + 1))
def test_the_first_finding_is_the_next_cure(cured: int, tmp_path: Path) -> None:
    prof = [sys.executable, "-m", "profiler.cli.main", "attach", "-o", str(tmp_path), "--name", "run", "--quiet"]
    script = [str(EXAMPLE / "train.py"), "--cured", str(cured)]
    done = subprocess.run([*prof, *script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    told = [f"{f['severity']} {f['rule']}: {f['title']}" for f in found["findings"]]
    first = promising(found)
    if cured < len(CURES):
        following = next((f for f in found["findings"] if f["rule"] == CURES[cured][0] and f["gain"]), None)
        assert first is not None and following is not None, told
        assert following["gain"]["step_ms_low"] <= first["gain"]["step_ms_high"], told  # else another one comes first
    else:
        assert all(f["severity"] == "info" for f in found["findings"]), told
