"""How rules are found, asked, folded, ranked, silenced and configured."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner
from facts_builder import facts, line, loader, optimizer, settings, stages, steps, workers

from profiler.cli.main import cli
from profiler.errors import ProfError
from profiler.rules import docs
from profiler.rules.base import Bottleneck, Fix, Gain, Rule, Severity
from profiler.rules.catalogue import catalogue, families, judge, judge_by, rule_types
from profiler.rules.config import RulesConfig
from profiler.rules.silence import asks_for_silence
from profiler.rules.text import SECTIONS, rule_text

WAITS = {"data_wait": 80.0, "forward": 6.0, "backward": 12.0, "optimizer": 1.5, "other": 0.5}


class Broken(Rule):
    """Raises."""

    id = "other/broken"
    bottleneck = Bottleneck.OTHER

    def check(self, facts):
        raise ZeroDivisionError("no steps")


class Saves(Rule):
    """Finds what it is told to."""

    id = "other/saves"
    bottleneck = Bottleneck.OTHER

    def __init__(self, *saves_ms):
        super().__init__()
        self.saves_ms = saves_ms

    def check(self, facts):
        step_ms = facts.steps.mean_ms
        return [self.finding(f"saves {ms}", "", {}, Fix(""), Gain.of(step_ms, ms, ms), step_ms) for ms in self.saves_ms]


def test_rules_come_in_one_order_and_every_id_begins_with_its_folder():
    ids = [rule.id for rule in rule_types()]
    assert ids == sorted(set(ids))
    for rule in rule_types():
        assert rule.__module__.split(".")[2] == rule.id.split("/")[0]


@pytest.mark.parametrize("rule", rule_types(), ids=lambda rule: rule.id)
def test_every_rule_is_documented_in_full(rule):
    text = rule.text()
    assert text.title
    assert tuple(heading for heading, _ in text.sections) == SECTIONS
    assert all(body for _, body in text.sections)
    assert rule.evidence in docs.EVIDENCE
    known = {other.id for other in rule_types()} | {"*"}
    assert set(rule.explained_by) <= known
    for name in rule.thresholds():
        assert f"`{name}`" in text.section("Evidence") + text.section("Fix"), f"{name} is not explained"


def test_a_rule_that_raises_hides_no_other():
    judgement = judge_by([Broken(), Saves(30.0)], facts())
    assert judgement.failures == (("other/broken", "ZeroDivisionError: no steps"),)
    assert [finding.rule for finding in judgement.findings] == ["other/saves"]


def test_findings_are_ranked_by_what_they_recover():
    judgement = judge_by([Saves(3.0, 30.0, 12.0)], facts())
    assert [finding.title for finding in judgement.findings] == ["saves 30.0", "saves 12.0", "saves 3.0"]
    assert [f.severity for f in judgement.findings] == [Severity.CRITICAL, Severity.WARNING, Severity.INFO]


def test_a_promise_is_never_wider_than_it_can_be_wrong():
    gain = Gain.of(100.0, 10.0, 95.0)
    assert gain.step_ms_high / gain.step_ms_low == pytest.approx(1.5)
    assert 5.0 < gain.step_ms_low < gain.step_ms_high < 100.0


def test_selecting_and_ignoring_work_by_id_and_by_family():
    assert {rule.family() for rule in catalogue(RulesConfig(select=("data",)))} == {"data"}
    left = {rule.id for rule in catalogue(RulesConfig(select=("data",), ignore=("data/slow-collate",)))}
    assert "data/slow-collate" not in left
    assert "data/slow-storage" in left


def test_ignoring_the_cause_brings_out_what_it_explained():
    waiting = facts(
        WAITS,
        workers=workers(0, 4, 74, 2),
        machine=facts().machine.__class__(8, 16 * 2**30, "cpu", False, False, 6.8, 0.0, 1.0),
    )
    assert judge(waiting).verdict.rule == "data/too-few-workers"
    ignoring = RulesConfig(ignore=("data/too-few-workers",))
    assert judge(waiting, ignoring).verdict.rule == "data/heavy-preprocessing"


def test_a_threshold_of_the_users_decides():
    table = {"rules": {"data/heavy-preprocessing": {"threshold": 0.9}}, "output": "reports"}
    waiting = facts(WAITS, workers=workers(0, 4, 74, 2))
    assert judge(waiting).verdict.rule == "data/heavy-preprocessing"
    assert judge(waiting, RulesConfig.from_table(table)).findings == ()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"select": ["data/too-few-worker"]}, "data/too-few-workers"),
        ({"ignore": ["optimiser"]}, "optimizer"),
        ({"rules": {"memory/grow": {"growth_mib": 1}}}, "memory/growth"),
        ({"rules": {"memory/growth": {"growth_mb": 1}}}, "growth_mib"),
        ({"rules": {"memory/growth": {"growth_mib": "much"}}}, "must be a number"),
        ({"rules": {"memory/growth": 3}}, "table of thresholds"),
        ({"select": "data"}, "must be a list"),
    ],
)
def test_unknown_names_and_wrong_types_are_refused_with_what_was_meant(table, says):
    with pytest.raises(ProfError, match=re.escape(says)):
        catalogue(RulesConfig.from_table(table))


@pytest.mark.parametrize(
    ("source", "silent"),
    [
        ("loader = DataLoader(d)  # prof: ignore[data/too-few-workers]", True),
        ("loader = DataLoader(d)  # prof: ignore[data]", True),
        ("loader = DataLoader(d)  # prof: ignore", True),
        ("loader = DataLoader(d)  #prof:ignore[ memory/growth , data/too-few-workers ]", True),
        ("loader = DataLoader(d)  # prof: ignore[data/slow-storage]", False),
        ("loader = DataLoader(d)", False),
    ],
)
def test_a_comment_silences_a_rule_by_id_by_family_or_altogether(source, silent):
    assert asks_for_silence(source, "data/too-few-workers") is silent


def test_the_users_file_is_read_for_comments(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import torch\nloader = DataLoader(d)  # prof: ignore[data/heavy-preprocessing]\n")
    site = loader().site.__class__(str(script), 2)
    waiting = facts(WAITS, workers=workers(0, 4, 74, 2), settings=settings((loader(site=site),)))
    judgement = judge(waiting)
    assert [finding.rule for finding in judgement.silenced] == ["data/heavy-preprocessing"]
    assert judgement.findings == ()
    assert judgement.verdict.bottleneck is Bottleneck.DATA_PREPROCESSING  # silence cures nothing


def test_a_text_is_cut_into_its_sections():
    text = rule_text("Title.\n\n    ## Why it is slow\n    One\n    two.\n\n    ## Gain\n    None.\n    ")
    assert text.title == "Title"
    assert text.section("Why it is slow") == "One two."
    assert text.section("Fix") == ""


def test_prof_rules_lists_and_explains():
    listed = CliRunner().invoke(cli, ["rules"]).output
    assert all(rule.id in listed and rule.text().title in listed for rule in rule_types())
    page = CliRunner().invoke(cli, ["rules", "optimizer/for-loop"]).output
    assert page == docs.rule_page(next(rule for rule in rule_types() if rule.id == "optimizer/for-loop"))
    family = CliRunner().invoke(cli, ["rules", "memory"]).output
    assert "memory/growth" in family
    assert "data/" not in family


def test_prof_rules_speaks_json():
    entries = json.loads(CliRunner().invoke(cli, ["rules", "--json"]).output)
    assert [entry["id"] for entry in entries] == [rule.id for rule in rule_types()]
    assert all(set(e) == {"id", "family", "bottleneck", "title", "evidence", "url"} for e in entries)
    assert {entry["evidence"] for entry in entries} <= {"training", "trace", "facts"}


def test_prof_rules_names_what_is_near_to_an_unknown_id():
    result = CliRunner().invoke(cli, ["rules", "data/to-few-workers"])
    assert isinstance(result.exception, ProfError)
    assert "data/too-few-workers" in str(result.exception)


def test_pages_in_the_repository_are_current(request):
    assert docs.stale(request.config.rootpath / "docs" / "rules") == []


def test_a_stale_page_is_told_and_written_again(tmp_path):
    runner = CliRunner()
    assert runner.invoke(docs.main, [str(tmp_path)]).exit_code == 0
    assert runner.invoke(docs.main, [str(tmp_path), "--check"]).exit_code == 0
    (tmp_path / "memory" / "growth.md").write_text("old")
    (tmp_path / "memory" / "gone.md").write_text("of a rule that is no more")
    checked = runner.invoke(docs.main, [str(tmp_path), "--check"])
    assert checked.exit_code == 1
    assert "memory/gone.md, memory/growth.md" in checked.output
    runner.invoke(docs.main, [str(tmp_path)])
    assert docs.stale(tmp_path) == []
    assert not (tmp_path / "memory" / "gone.md").exists()


def test_every_family_says_what_it_is_about():
    assert all(families().values())


def test_a_note_is_mentioned_but_does_not_name_the_bottleneck():
    times = {"data_wait": 1.0, "forward": 30.0, "backward": 60.0, "optimizer": 2.0, "other": 7.0}
    judgement = judge(facts(times, stages=stages(times, {"other": (line(61, 6.5, "print(loss)"),)})))
    assert judgement.verdict.bottleneck is Bottleneck.COMPUTE
    assert judgement.verdict.severity is Severity.INFO
    assert "the most that was found to gain" in judgement.verdict.summary
    assert [f.rule for f in judgement.findings] == ["host/logging", "compute/healthy"]


def test_no_finding_above_a_note_before_enough_steps():
    judgement = judge(facts(WAITS, workers=workers(0, 4, 74, 2), steps=steps(100.0, measured=7)))
    assert {finding.severity for finding in judgement.findings} == {Severity.INFO}
    assert judge(facts(WAITS, workers=workers(0, 4, 74, 2), steps=steps(100.0, measured=3))).findings[1:] == ()


def test_an_optimizer_rule_is_not_asked_by_host_times():
    from facts_builder import gpu

    blocked = {"data_wait": 1.0, "forward": 3.0, "backward": 5.0, "optimizer": 40.0, "other": 30.0}
    its = facts(
        blocked,
        stages=stages(blocked, {"other": (line(50, 28.0, "total += loss.item()"),)}, optimizer={"step": 39.0}),
        settings=settings(optimizers=(optimizer(foreach=False),)),
        machine=gpu(device_times=False),
    )
    judgement = judge(its)
    assert judgement.findings == ()
    assert {a.rule for a in judgement.abstentions} >= {"optimizer/for-loop", "host/python-line", "compute/healthy"}
    assert judgement.verdict.bottleneck is Bottleneck.NONE
    assert "host times" in judgement.verdict.summary
