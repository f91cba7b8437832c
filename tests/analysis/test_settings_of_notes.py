"""Settings from notes: which of several counts."""

from __future__ import annotations

from profiler.analysis.settings import settings_of


def test_autocast_that_was_in_use_is_not_hidden_by_a_region_without_it() -> None:
    used, off = (
        {"kind": "setting", "name": "autocast", "value": {"enabled": on, "dtype": "bfloat16"}} for on in (True, False)
    )
    for notes in ([used, off], [off, used]):
        assert settings_of(notes, frozenset()).values["autocast"]["enabled"]


def test_of_other_settings_the_last_note_counts() -> None:
    notes = [{"kind": "setting", "name": "matmul_precision", "value": value} for value in ("highest", "high")]
    assert settings_of(notes, frozenset()).values["matmul_precision"] == "high"
