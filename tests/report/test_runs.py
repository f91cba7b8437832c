import json
import os
import subprocess
import sys
import types
from dataclasses import replace

import pytest
import sample_result
from click.testing import CliRunner

from profiler.cli.list import command as list_command
from profiler.cli.report import command as report_command
from profiler.errors import ProfError
from profiler.report.pipeline import make_report
from profiler.report.render import write_reports
from profiler.report.runs import find_run, list_runs


def run_at(result, started_unix_s, name):
    run = replace(result.facts.run, started_unix_s=started_unix_s, name=name)
    return replace(result, facts=replace(result.facts, run=run))


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """Four runs: two that are well, one written by a newer version, one that is damaged; and a stray folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROF_OUTPUT", raising=False)
    folder = tmp_path / "reports"
    for name, result, started in (
        ("old", sample_result.data_bound(), 1_000.0),
        ("new", sample_result.healthy(), 2_000_000_000.0),
    ):
        (folder / name).mkdir(parents=True)
        write_reports(folder / name, run_at(result, started, name))
    for name, content in (("newer-version", '{"schema_version": 9}'), ("damaged", '{"schema_version": 1, "ru')):
        (folder / name).mkdir()
        (folder / name / "summary.json").write_text(content)
        os.utime(folder / name / "summary.json", (500, 500))
    (folder / "raw").mkdir()
    (folder / "raw" / "run.json").write_text("{}")
    os.utime(folder / "raw" / "run.json", (100, 100))
    (folder / "notes").mkdir()
    return folder


@pytest.fixture
def recorded(reports, monkeypatch):
    """The raw record of the run "raw", read by a stand-in for the analysis."""
    (reports / "raw" / "rank-00000" / "123").mkdir(parents=True)
    build = types.ModuleType("profiler.analysis.build")
    build.read_facts = lambda run_dir, rank=None, dumps=None: sample_result.data_bound().facts
    monkeypatch.setitem(sys.modules, "profiler.analysis.build", build)
    return reports / "raw"


def test_runs_are_listed_newest_first_and_a_bad_one_hides_no_other(reports):
    runs = list_runs(reports)
    assert [run.name for run in runs] == ["new", "old", "damaged", "newer-version", "raw"]
    assert runs[1].steps == 9984
    assert runs[1].median_ms == 63.02
    assert runs[1].bottleneck == "data-preprocessing"
    assert "not JSON" in runs[2].problem
    assert "newer prof" in runs[3].problem
    assert runs[4].problem == "not analysed yet: prof report raw"


@pytest.mark.parametrize("content", ['{"schema_version": 1}', '{"schema_version": 1, "run": 3, "verdict": {}}'])
def test_a_summary_without_a_verdict_is_shown_as_unreadable(tmp_path, content):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "summary.json").write_text(content)
    assert "does not hold a result" in list_runs(tmp_path)[0].problem


def test_list_prints_a_row_a_run(reports):
    done = CliRunner().invoke(list_command, [], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    rows = done.output.splitlines()
    assert rows[0].split() == ["run", "when", "steps", "median", "verdict"]
    assert rows[1].startswith("new") and "compute" in rows[1]


def test_a_narrow_list_keeps_a_readable_run_to_a_row(reports):
    done = CliRunner().invoke(list_command, [], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.exception
    rows = done.output.splitlines()
    assert rows[1].startswith("new") and rows[2].startswith("old"), done.output
    assert rows[1].rstrip().endswith("compute")


def test_list_gives_json(reports):
    done = CliRunner().invoke(list_command, [str(reports), "--json"])
    assert [run["name"] for run in json.loads(done.output)][:2] == ["new", "old"]


def test_an_empty_list_says_how_to_fill_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(list_command, [])
    assert done.exit_code == 0
    assert done.output == "No runs under reports: record one with `prof attach train.py`.\n"


def test_a_run_is_found_by_name_or_by_path_and_a_slip_is_guessed(reports):
    assert find_run("old", reports) == reports / "old"
    assert find_run(str(reports / "old"), reports) == reports / "old"
    with pytest.raises(ProfError, match="did you mean damaged"):
        find_run("damagd", reports)
    with pytest.raises(ProfError, match="there is no run"):
        find_run("x" * 5000, reports)


def test_report_renders_the_record_again(recorded):
    done = CliRunner().invoke(report_command, ["raw"], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    assert "data wait" in done.output
    assert (recorded / "report.html").exists() and (recorded / "summary.json").exists()


def test_report_is_silent_when_asked(recorded):
    done = CliRunner().invoke(report_command, ["raw", "--quiet"])
    assert (done.exit_code, done.output) == (0, "")
    assert (recorded / "report.html").exists()


def test_report_gives_the_summary_as_json(recorded):
    done = CliRunner().invoke(report_command, ["raw", "--json"])
    assert json.loads(done.stdout) == json.loads((recorded / "summary.json").read_text())


def test_report_opens_the_file_in_a_browser_when_asked(recorded, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    CliRunner().invoke(report_command, ["raw", "--quiet", "--open"])
    assert opened == [(recorded / "report.html").resolve().as_uri()]


def test_a_run_whose_raw_record_is_gone_is_said_to_keep_its_result(reports):
    with pytest.raises(
        ProfError, match=r"keeps its result \(summary.json and report.html\) but its raw record is gone"
    ):
        make_report(reports / "old")
    done = CliRunner().invoke(report_command, ["old", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["steps"]["count"] == 9984
    assert "the raw record of" in done.stderr


def test_a_folder_that_is_no_run_is_refused(reports):
    with pytest.raises(ProfError, match="is not the folder of a run"):
        make_report(reports / "notes")
    with pytest.raises(ProfError, match="is not a folder"):
        make_report(reports / "nowhere")


@pytest.mark.parametrize("words", [["report", "nowhere"], ["report", "newer-version", "--json"], ["report", "damaged"]])
def test_bad_input_is_one_sentence_and_exit_code_2(reports, words):
    done = subprocess.run(
        [sys.executable, "-m", "profiler.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=reports.parent,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("prof: ") and done.stderr.count("\n") == 1
