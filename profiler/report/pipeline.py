"""From a run folder to its reports: what `prof attach`, `prof trace`, `prof report` and
`profiler.profile` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from profiler.analysis.engine import Spread
from profiler.analysis.facts import Facts
from profiler.config import read_table
from profiler.errors import ProfError
from profiler.record.layout import PROCESSES, REPORT_HTML, RUN_JSON, SUMMARY_JSON, process_directories, rank_directory
from profiler.record.run_folder import traces_of
from profiler.report.render import Paths, write_reports
from profiler.rules.verdict import Result


@dataclass(frozen=True, slots=True)
class Report:
    """A run's result and where it was written."""

    result: Result
    paths: Paths


def make_report(
    run_dir: Path,
    *,
    html: bool = True,
    cwd: Path | None = None,
    rank: int | None = None,
    dumps: Path | None = None,
) -> Report:
    """Analyse a run folder, judge it by the rules as set in `cwd`, and write the result into it.

    With `rank`, the report is that of one rank of a job, and is written into the rank's folder. `dumps` is a folder of
    the flight recorder's.
    Raises ProfError when there is no record to read or the folder can't be written.
    """
    traces = traces_of(run_dir)
    if traces:
        return make_trace_report([Path(file) for file in traces], run_dir, html=html, cwd=cwd)
    require_record(run_dir)
    from profiler.analysis.build import read_facts

    facts = read_facts(run_dir, rank, dumps)
    return _write(facts, run_dir if rank is None or facts.ranks is None else rank_directory(run_dir, rank), html, cwd)


def make_trace_report(
    files: Sequence[Path], run_dir: Path, *, html: bool = True, cwd: Path | None = None, spread: Spread | None = None
) -> Report:
    """Analyse and judge recorded traces as a run is, each reduced by `spread`, and write the result into a folder.

    Raises ProfError when none of the files can be read or the folder can't be written.
    """
    from profiler.analysis.trace.many import read_traces

    gone = [file for file in files if not file.exists()]
    if gone and len(gone) == len(files):
        raise ProfError(f"{run_dir} was made from the trace {gone[0]}, which is no longer there: nothing to render.")
    facts = read_traces(files, spread)
    run = replace(facts.run, name=run_dir.name, command=("prof", "trace", *map(str, files)))
    return _write(replace(facts, run=run), run_dir, html, cwd)


def _write(facts: Facts, run_dir: Path, html: bool, cwd: Path | None) -> Report:
    from profiler.rules.catalogue import judge
    from profiler.rules.config import RulesConfig

    config = RulesConfig.from_table(read_table(cwd or Path.cwd()))
    result = Result(facts, judge(facts, config))
    return Report(result, write_reports(run_dir, result, html=html))


def has_record(run_dir: Path) -> bool:
    """Whether a folder still holds what a run recorded, or knows the trace that it was made from."""
    return bool(traces_of(run_dir)) or bool(process_directories(run_dir)) or (run_dir / PROCESSES).is_dir()


def require_record(run_dir: Path) -> None:
    """Raise ProfError, in one sentence, when a folder holds no record of a run."""
    if not run_dir.is_dir():
        raise ProfError(f"{run_dir} is not a folder: give a run's name or its path; `prof list` shows the runs.")
    if has_record(run_dir):
        return
    kept = [name for name in (SUMMARY_JSON, REPORT_HTML) if (run_dir / name).exists()]
    if kept:
        raise ProfError(
            f"{run_dir} keeps its result ({' and '.join(kept)}) but its raw record is gone, "
            "so it can't be rendered again."
        )
    if not (run_dir / RUN_JSON).exists():
        raise ProfError(f"{run_dir} is not the folder of a run: it holds no {RUN_JSON}.")
