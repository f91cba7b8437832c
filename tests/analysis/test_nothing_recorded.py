"""A script that failed before its first step, told from what its processes said when they checked in."""

from __future__ import annotations

import json
from pathlib import Path

from profiler.analysis.build import read_facts
from profiler.rules.catalogue import judge


def failed(folder: Path, **process: object) -> Path:
    """The folder of a run that left nothing but the word of one process."""
    (folder / "processes").mkdir()
    (folder / "run.json").write_text(json.dumps({"command": ["python", "train.py"], "exit_code": 1}))
    (folder / "processes" / "12.json").write_text(json.dumps({"pid": 12, "ppid": 1, **process}))
    return folder


def test_a_script_that_imported_torch_and_failed_is_not_said_to_have_failed_before(tmp_path: Path) -> None:
    (finding,) = judge(read_facts(failed(tmp_path, role="torch", torch="2.13.0"))).findings
    assert "before it imported torch" not in finding.why
    assert "failed with exit code 1 before its first step" in finding.why
    assert finding.fix.summary.startswith("Mend the script's own error")


def test_a_script_that_failed_earlier_is(tmp_path: Path) -> None:
    (finding,) = judge(read_facts(failed(tmp_path, role="python"))).findings
    assert finding.why == "The script failed with exit code 1 before it imported torch."
