"""Write a run's result into its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from profiler.record.layout import REPORT_HTML, SUMMARY_JSON
from profiler.report.files import write_whole
from profiler.report.summary import summary, summary_bytes
from profiler.rules.verdict import Result


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a run's result lies."""

    summary: Path
    html: Path | None  # None: no HTML was asked for


def write_reports(run_dir: Path, result: Result, html: bool = True) -> Paths:
    """Write `summary.json` and, unless told otherwise, `report.html`; each whole or not at all.

    Raises ProfError when the folder can't be written.
    """
    summary_path = run_dir / SUMMARY_JSON
    write_whole(summary_path, summary_bytes(summary(result)))
    if not html:
        return Paths(summary_path, None)
    from profiler.report.html import render_html

    html_path = run_dir / REPORT_HTML
    write_whole(html_path, render_html(result).encode("utf-8", "backslashreplace"))
    return Paths(summary_path, html_path)
