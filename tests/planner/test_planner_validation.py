"""The planner against published figures, row by row, and the page that shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.planner.validation.__main__ import main, page, sections
from profiler.planner.validation.rows import Row

PAGE = Path(__file__).parents[2] / "docs" / "planner-validation.md"
ROWS = [(part.title, row) for part in sections() for row in part.rows]


@pytest.mark.parametrize(("title", "row"), ROWS, ids=[f"{title}: {row.what}" for title, row in ROWS])
def test_a_published_figure_is_reproduced_or_its_miss_is_explained(title: str, row: Row) -> None:
    assert row.holds or row.why, f"{title}: {row.what} is off by {row.error:+.1%} and nothing says why"


def test_the_page_shows_every_row_with_its_error() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(sections()), "run `python -m profiler.planner.validation docs/planner-validation.md`"
    for _, row in ROWS:
        assert f"| {row.what} |" in text
        assert f"{100 * row.error:+.2f} %" in text


def test_check_tells_a_stale_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "page.md"
    stale.write_text("old", encoding="utf-8")
    assert main([str(stale), "--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert main([str(stale)]) == 0
    assert main([str(stale), "--check"]) == 0


def test_few_rows_miss_and_none_that_the_issue_of_trust_rests_on() -> None:
    missed = [row for _, row in ROWS if not row.holds]
    assert len(missed) <= 8
    assert all(row.trust != "recalled" for _, row in ROWS if row.holds)


@pytest.mark.parametrize("scheme", ["ZeRO-3", "PTD"])
def test_every_row_of_megatrons_table_lies_within_five_percent(scheme: str) -> None:
    rows = [row for title, row in ROWS if "table 2" in title and row.what.startswith(scheme)]
    assert len(rows) == 6 and len([row for _, row in ROWS if row.what.startswith(f"by 8TP/nX: {scheme}")]) == 6
    assert max(abs(row.error) for row in rows) < 0.05
