"""From a run folder to its reports: the seam that `prof attach`, `prof report` and `profiler.profile` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from profiler.errors import ProfError
from profiler.record.layout import REPORT_HTML, RUN_JSON, SUMMARY_JSON, process_directories
from profiler.report.render import Paths, write_reports
from profiler.rules.verdict import Result


@dataclass(frozen=True, slots=True)
class Report:
    """A run's result and where it was written."""

    result: Result
    paths: Paths


def make_report(run_dir: Path, *, html: bool = True, cwd: Path | None = None) -> Report:
    """Analyse a run folder, judge it by the rules as set in `cwd`, and write the result into it.

    Raises ProfError when there is no record to read or the folder can't be written.
    """
    from profiler.analysis.build import read_facts
    from profiler.rules.catalogue import judge, load_config

    require_record(run_dir)
    facts = read_facts(run_dir)
    result = Result(facts, judge(facts, load_config(cwd or Path.cwd())))
    return Report(result, write_reports(run_dir, result, html=html))


def require_record(run_dir: Path) -> None:
    """Raise ProfError, in one sentence, when a folder holds no record of a run."""
    if not run_dir.is_dir():
        raise ProfError(f"{run_dir} is not a folder: give a run's name or its path; `prof list` shows the runs.")
    if process_directories(run_dir) or (run_dir / RUN_JSON).exists():
        return
    kept = [name for name in (SUMMARY_JSON, REPORT_HTML) if (run_dir / name).exists()]
    if kept:
        raise ProfError(
            f"{run_dir} keeps its result ({' and '.join(kept)}) but its raw record is gone, so it can't be rendered again."
        )
    raise ProfError(f"{run_dir} is not the folder of a run: it holds no {RUN_JSON}.")
