"""The runs that lie in a folder, as their summaries tell of them.

In:  a folder of run folders, such as `reports/`.
Out: one `RunLine` a run, newest first. A run that can't be read says why, and hides no other.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from profiler.errors import ProfError
from profiler.record.layout import RUN_JSON, SUMMARY_JSON
from profiler.report.summary import read_summary


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in a list of runs."""

    name: str
    started_unix_s: float
    steps: int | None
    median_ms: float | None
    bottleneck: str | None
    verdict: str | None
    problem: str | None  # why there is no result to show


def find_run(run: str, directory: Path) -> Path:
    """The folder of a run, given by its path or by its name in a folder of runs. Raises ProfError."""
    for candidate in (Path(run), directory / run):
        try:
            if candidate.is_dir():
                return candidate
        except (OSError, ValueError):
            continue
    known = [path.name for path in _run_directories(directory)]
    close = difflib.get_close_matches(run, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "`prof list` shows the runs."
    raise ProfError(f"there is no run {run!r}, neither as a folder nor under {directory}/: {hint}")


def list_runs(directory: Path) -> list[RunLine]:
    """The runs of a folder, newest first. Raises ProfError when the folder is none."""
    if directory.exists() and not directory.is_dir():
        raise ProfError(f"{directory} is not a folder.")
    return sorted(map(_run_line, _run_directories(directory)), key=lambda run: run.started_unix_s, reverse=True)


def _run_directories(directory: Path) -> list[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return []
    return [path for path in entries if any((path / name).exists() for name in (RUN_JSON, SUMMARY_JSON))]


def _run_line(run_dir: Path) -> RunLine:
    modified = max((path.stat().st_mtime for path in run_dir.glob("*.json")), default=0.0)
    nothing = RunLine(run_dir.name, modified, None, None, None, None, None)
    path = run_dir / SUMMARY_JSON
    if not path.exists():
        return replace(nothing, problem=f"not analysed yet: prof report {run_dir.name}")
    try:
        value = read_summary(path)
        run, steps, verdict = value.get("run") or {}, value.get("steps") or {}, value["verdict"]
        started = run.get("started_unix_s")
        return RunLine(
            name=run_dir.name,
            started_unix_s=float(started) if started else modified,
            steps=_number(steps.get("count"), int),
            median_ms=_number(steps.get("median_ms"), float),
            bottleneck=str(verdict["bottleneck"]),
            verdict=str(verdict["summary"]),
            problem=None,
        )
    except ProfError as error:
        return replace(nothing, problem=str(error))
    except (KeyError, TypeError, ValueError, AttributeError):
        return replace(
            nothing,
            problem=f"{SUMMARY_JSON} does not hold a result; `prof report {run_dir.name}` writes it anew",
        )


def _number(value: Any, kind: type[Any]) -> Any:
    return None if value is None else kind(value)
