import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
import sample_result
from rich.console import Console

from profiler.report.terminal import print_result

SNAPSHOTS = Path(__file__).parent / "snapshots"
REPORT = Path("reports/train-20260301-141503/report.html")


def printed(result, width=100, encoding="utf-8", **console):
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    print_result(result, Console(file=buffer, width=width, **console), REPORT)
    buffer.seek(0)
    return buffer.read()


@pytest.mark.parametrize("width", [100, 60])
@pytest.mark.parametrize("name", ["data_bound", "healthy", "too_short", "no_training", "host_times", "million_steps"])
def test_the_terminal_says_what_a_person_reviewed(name, width):
    told = "\n".join(line.rstrip() for line in printed(sample_result.ALL[name](), width).splitlines()) + "\n"
    assert told == (SNAPSHOTS / f"terminal_{name}_{width}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(sample_result.ALL) - {"hostile"}))
def test_the_result_fits_a_screenful(name):
    lines = printed(sample_result.ALL[name]()).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100


def test_bars_of_the_stages_join_into_one_bar():
    bars = re.findall(r"%  ( *)(█+)", printed(sample_result.data_bound()))
    assert len(bars) == 5
    end = 0
    for gap, bar in bars:
        assert len(gap) == end
        end += len(bar)


def test_without_a_terminal_there_is_no_colour():
    assert "\x1b" not in printed(sample_result.data_bound())
    assert "\x1b[" in printed(sample_result.data_bound(), force_terminal=True, color_system="truecolor")


def test_names_from_the_run_cannot_steer_the_terminal():
    told = printed(sample_result.hostile())
    assert "\x1b" not in told and "\u2028" not in told
    assert "\\x1b[31m" in told


def test_text_from_the_run_is_not_read_as_markup():
    result = sample_result.data_bound()
    facts = replace(result.facts, run=replace(result.facts.run, command=("python", "[bold]train[/bold].py")))
    assert "[bold]train[/bold].py" in printed(replace(result, facts=facts))


def test_an_ascii_terminal_gets_ascii_bars():
    told = printed(sample_result.data_bound(), encoding="ascii")
    assert "####" in told and "?" * 10 not in told


def test_host_times_of_an_asynchronous_device_are_called_so():
    assert "These are host times" in printed(sample_result.host_times())
    assert "host times" not in printed(sample_result.data_bound())


def test_a_long_code_to_paste_is_cut_with_a_word_about_the_rest():
    result = sample_result.data_bound()
    finding = result.judgement.findings[0]
    long = replace(finding, fix=replace(finding.fix, code="\n".join(f"line_{number}" for number in range(40))))
    told = printed(replace(result, judgement=replace(result.judgement, findings=(long,))))
    assert "line_4" in told and "line_5" not in told
    assert "35 more lines in the report" in told
