"""`with profiler.profile(…)`: it never stands in the training's way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import profiler
from profiler.errors import ProfError


def train() -> float:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).sum()
        loss.backward()
        optimizer.step()
    return float(loss)


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        with profiler.profile(name="baseline", output=str(tmp_path), quiet=True, deep=False) as run:
            train()
        assert run.path is not None
        assert run.summary["steps"]["count"] == 30
        runs.append(run.path.name)
    assert runs[0] == "baseline"
    assert runs[1] != "baseline"
    assert runs[1].startswith("baseline-")


def test_where_nothing_can_be_written_the_training_runs_and_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file, so that no folder can be made there")
    expected = train()
    with profiler.profile(output=str(tmp_path / "taken"), quiet=True) as run:
        assert train() == expected
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("prof: nothing is recorded: cannot write to")
    assert run.path is None
    with pytest.raises(ProfError, match="no summary"):
        _ = run.summary


def test_a_block_within_a_block_is_refused(tmp_path: Path) -> None:
    with (
        profiler.profile(output=str(tmp_path), quiet=True, report=False, deep=False),
        pytest.raises(ProfError, match="can't be nested"),
        profiler.profile(output=str(tmp_path)),
    ):
        pass
