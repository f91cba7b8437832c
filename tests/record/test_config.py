"""Settings from the user's pyproject.toml, the environment and flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.config import load_config
from profiler.errors import ProfError


def test_every_name_that_no_setting_has_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.prof]\noutptu = "x"\nquiett = true\ndeep = false\n')
    with pytest.raises(ProfError) as raised:
        load_config(tmp_path)
    assert "'outptu', 'quiett'" in str(raised.value)
    assert "did you mean 'output' for 'outptu'?; did you mean 'quiet' for 'quiett'?" in str(raised.value)


def test_a_name_like_no_other_brings_the_list_of_settings(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.prof]\nzzz = 1\n")
    with pytest.raises(ProfError, match="has no setting 'zzz': known are: output, "):
        load_config(tmp_path)


def test_flags_go_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.prof]\noutput = "file"\nquiet = true\n')
    monkeypatch.setenv("PROF_OUTPUT", "environment")
    assert load_config(tmp_path).output == "environment"
    assert load_config(tmp_path, {"output": "flag", "quiet": None}).output == "flag"
    assert load_config(tmp_path).quiet is True
