"""What a labelled training's summary has to say: planted, cured, or healthy."""

from __future__ import annotations

from typing import Any

from labels import Label


def told(summary: dict[str, Any]) -> list[str]:
    """Verdict and findings in lines, for a failure's message."""
    stages = {name: f"{stage['share']:.0%}" for name, stage in summary["stages"].items()}
    findings = [f"{f['severity']} {f['rule']}: {f['title']}" for f in summary["findings"]]
    return [summary["verdict"]["summary"], str(stages), *findings]


def names(summary: dict[str, Any]) -> list[str]:
    """The rules that said anything."""
    return [f["rule"] for f in summary["findings"]]


def serious(summary: dict[str, Any]) -> list[str]:
    """The rules that said more than a note."""
    return [f["rule"] for f in summary["findings"] if f["severity"] != "info"]


def names_what_is_planted(label: Label, summary: dict[str, Any]) -> None:
    """The verdict is the planted one, its rule speaks, at its line."""
    assert summary["verdict"]["bottleneck"] in label.verdicts, told(summary)
    said = names(summary) if label.note else serious(summary)
    assert any(rule.startswith(label.rule) for rule in said), told(summary)
    assert set(label.also) <= set(names(summary)), told(summary)
    if label.exact and label.line:
        finding = next(f for f in summary["findings"] if f["rule"] == label.rule)
        assert (finding["fix"]["file"], finding["fix"]["line"]) == (str(label.path), label.line), told(summary)
    if label.span:
        name, share = label.span
        span = next(span for span in summary["spans"] if span["name"] == name)
        assert span["share_of_run"] >= share, told(summary)


def is_silent_of_the_cured(label: Label, summary: dict[str, Any]) -> None:
    """Nothing serious is said of the twin, and nothing by the rules that the training proves."""
    assert summary["verdict"]["bottleneck"] in label.twin, told(summary)
    assert serious(summary) == [], told(summary)
    assert not set(label.rules) & set(names(summary)), told(summary)


def is_silent_of_the_healthy(label: Label, summary: dict[str, Any]) -> None:
    """Nothing more than a note is said."""
    assert summary["verdict"]["bottleneck"] in label.verdicts, told(summary)
    assert serious(summary) == [], told(summary)
