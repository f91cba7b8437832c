import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sample_result

from profiler.errors import ProfError
from profiler.report.render import write_reports


def test_both_files_are_written_and_nothing_else(tmp_path):
    paths = write_reports(tmp_path, sample_result.data_bound())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "summary.json"]
    assert json.loads(paths.summary.read_text())["schema_version"] == 1
    assert paths.html is not None and paths.html.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_no_html_where_none_is_wanted(tmp_path):
    assert write_reports(tmp_path, sample_result.data_bound(), html=False).html is None
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_names_that_are_not_unicode_are_written_all_the_same(tmp_path):
    result = sample_result.data_bound()
    object.__setattr__(result.facts.run, "command", ("python", "caf\udce9.py"))
    paths = write_reports(tmp_path, result)
    assert paths.html is not None and "caf\\udce9.py" in paths.html.read_text(encoding="utf-8")
    assert json.loads(paths.summary.read_text())["run"]["command"][1] == "caf\udce9.py"


def test_a_folder_that_is_gone_is_told_in_one_sentence(tmp_path):
    with pytest.raises(ProfError, match="could not be written") as raised:
        write_reports(tmp_path / "gone", sample_result.data_bound())
    assert "\n" not in str(raised.value)


def test_a_disk_that_takes_no_more_leaves_the_old_report_whole(tmp_path):
    """The kernel itself refuses: a limit on file size fails the write half way, as a full disk does."""
    (tmp_path / "report.html").write_text("the old report")
    script = f"""
        import resource, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        import sample_result
        from profiler.errors import ProfError
        from profiler.report.render import write_reports
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_reports(Path({str(tmp_path)!r}), sample_result.data_bound())
        except ProfError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "report.html could not be written (File too large); the record is kept" in done.stdout
    assert (tmp_path / "report.html").read_text() == "the old report"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "summary.json"]
