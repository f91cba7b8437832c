"""The tables of examples/README.md are true: each command gets the verdict that stands beside it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.flaky(reruns=2)  # another program on the machine can upset what lasts for seconds

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORTER: dict[str, list[str]] = {"images": [], "gpt": ["--steps", "150"]}


def promised() -> list[tuple[str, list[str], set[str]]]:
    """(folder, arguments, verdicts) of each row of the tables."""
    rows = []
    folder = ""
    for line in (EXAMPLES / "README.md").read_text().splitlines():
        if heading := re.match(r"## `(\w+)/train.py`", line):
            folder = heading[1]
        elif line.startswith("| `train.py"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows.append((folder, shlex.split(cells[0].strip("`"))[1:], set(re.findall(r"`([\w-]+)`", cells[2]))))
    return rows


def test_the_tables_promise_a_verdict_for_each_command() -> None:
    assert len(promised()) >= 8
    assert all(folder in SHORTER and verdicts for folder, _, verdicts in promised())


IDS = [" ".join([folder, *arguments]) for folder, arguments, _ in promised()]


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "arguments", "verdicts"), promised(), ids=IDS)
def test_an_example_gets_the_verdict_that_its_table_promises(
    folder: str, arguments: list[str], verdicts: set[str], tmp_path: Path
) -> None:
    prof = [sys.executable, "-m", "profiler.cli.main", "attach", "-o", str(tmp_path), "--name", "run", "--quiet"]
    script = [str(EXAMPLES / folder / "train.py"), *SHORTER[folder], *arguments]
    done = subprocess.run([*prof, *script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    findings = [f"{f['severity']} {f['rule']}: {f['title']}" for f in summary["findings"]]
    assert summary["verdict"]["bottleneck"] in verdicts, (summary["verdict"]["summary"], findings)
