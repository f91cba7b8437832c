"""What the report says of several ranks."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import sample_result
from rich.console import Console

from profiler.analysis.rank_facts import CollectiveRow, LastSeen
from profiler.analysis.ranks.merge import merge
from profiler.analysis.site import Site
from profiler.report.html import render_html
from profiler.report.ranks.section import MOST_OUTLIERS, ranks_section
from profiler.report.summary import summary
from profiler.report.terminal import print_result
from profiler.rules.verdict import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "ranks"))
from generated import job


def ranked(ranks) -> Result:
    base = sample_result.data_bound()
    return Result(replace(base.facts, ranks=merge(ranks)), base.judgement)


def terminal_text(result: Result) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    print_result(result, console)
    return " ".join(console.export_text().split())


def test_one_rank_has_no_section():
    assert ranks_section(sample_result.data_bound().facts) is None
    assert 'id="ranks"' not in render_html(sample_result.data_bound())


def test_the_late_rank_is_shaded_and_stands_beside_the_typical_one():
    result = ranked(job(4, late={2: ("forward", 12.0)}))
    section = ranks_section(result.facts)
    assert section is not None
    forward = section.columns.index("forward")
    assert [row.cells[forward].shade > 0.5 for row in section.rows] == [False, False, True, False]
    assert section.rows[2].note == "late" and section.pair_names == ("rank 0, typical", "rank 2, late")
    longest = max(section.pair, key=lambda row: row.more_ms)
    assert longest.name == "forward"
    page = render_html(result)
    assert 'href="#ranks"' in page and "Rank 2 comes last" in page
    assert "Rank 2 comes last" in terminal_text(result)


def test_parts_of_exposed_communication_make_up_the_whole():
    facts = ranked(job(4)).facts
    assert facts.ranks is not None
    parts = replace(facts.ranks, exposed_ms=50.0, network_ms=9.0, waiting_ms=14.0)
    said = " ".join(ranks_section(replace(facts, ranks=parts)).sentences).replace("\u202f", " ")
    assert "9.00 ms transfer, 14.0 ms waiting for ranks that come later, 27.0 ms in exchanges" in said
    whole = replace(parts, exposed_ms=23.1)
    assert "in exchanges" not in " ".join(ranks_section(replace(facts, ranks=whole)).sentences)


def test_of_many_ranks_those_that_stand_out_are_named_and_the_rest_is_a_distribution():
    section = ranks_section(ranked(job(300, late={200: ("other", 30.0)})).facts)
    assert section is not None and len(section.rows) <= MOST_OUTLIERS
    assert "rank 200" in {row.name for row in section.rows}
    assert [row.name for row in section.quantiles] == ["least", "5 %", "median", "95 %", "most"]
    assert section.left_out == 300 - len(section.rows)


def test_a_column_that_no_rank_fills_is_not_there():
    base = sample_result.data_bound()
    ranks = ranked(job(3)).facts.ranks
    row = CollectiveRow("all_reduce", "default", 3, "gloo", "float32", 1.0, 4096.0, 2.0, 1.5, 0.5)
    full = replace(ranks, collectives=(row,))
    bare = replace(
        ranks,
        rows=tuple(replace(rank, waiting_ms=None) for rank in ranks.rows),
        collectives=(replace(row, ms=None, gigabytes_per_s=None),),
    )
    pages = [render_html(Result(replace(base.facts, ranks=each), base.judgement)) for each in (full, bare)]
    for heading in ("waits for others", "time a call", "bandwidth"):
        assert [f">{heading}</th>" in page for page in pages] == [True, False]
    section = ranks_section(replace(base.facts, ranks=bare))
    assert all(len(row.cells) == len(section.columns) for row in section.rows)


def test_a_rank_without_steps_is_not_in_the_median_of_a_column():
    ranks = ranked(job(3)).facts.ranks
    gone = replace(ranks.rows[0], step_ms=None, stages_ms={}, waiting_ms=None)
    section = ranks_section(replace(ranked(job(3)).facts, ranks=replace(ranks, rows=(gone, *ranks.rows[1:]))))
    assert {cell.text for cell in section.rows[0].cells} == {""}
    assert all(abs(cell.shade) < 0.5 for cell in section.rows[1].cells)


def test_a_hang_is_the_first_thing_said_of_the_ranks():
    ranks = [replace(rank, ended=False) for rank in job(3)]
    for number, (doing, communicating, line) in enumerate(
        [("all_reduce", True, 9), ("", False, 77), ("all_reduce", True, 9)]
    ):
        last = LastSeen(doing, communicating, False, 42.0, 0.0, Site("/w/<b>.py", line))
        ranks[number] = replace(ranks[number], last=last)
    result = ranked(ranks)
    text = terminal_text(result)
    assert "ranks 0, 2 were in all_reduce for 42.0" in text and "to which rank 1 did not come" in text
    page = render_html(result)
    assert "&lt;b&gt;.py:77" in page and "<b>.py" not in page


def test_the_summary_holds_the_ranks():
    value = summary(ranked(job(2, late={1: ("data_wait", 9.0)})))
    assert value["ranks"]["late"]["rank"] == 1
    assert [row["rank"] for row in value["ranks"]["rows"]] == [0, 1]
