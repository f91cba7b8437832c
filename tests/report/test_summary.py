import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import sample_result

from profiler.errors import ProfError
from profiler.report.summary import notices, read_summary, summary, summary_bytes

SNAPSHOT = Path(__file__).parent / "snapshots" / "summary_data_bound.json"

# The contract, typed in from the design: keys may be added to it, none may go.
CONTRACT = {
    "": {"schema_version", "run", "steps", "stages", "workers", "device", "memory", "verdict", "findings", "overhead"},
    "run": {"command", "device", "torch", "ranks", "duration_s"},
    "steps": {"count", "warmup", "median_ms", "p5_ms", "p95_ms"},
    "workers": {"load_ms", "preprocess_ms", "collate_ms"},
    "memory": {"peak_rss_bytes", "peak_device_bytes", "stages", "categories"},
    "verdict": {"bottleneck", "rule", "severity", "summary"},
    "overhead": {"us_per_step", "share"},
}
FINDING = {"rule", "bottleneck", "severity", "title", "why", "evidence", "gain", "fix", "reference"}


def test_the_summary_keeps_every_key_of_the_contract():
    value = summary(sample_result.data_bound())
    for part, keys in CONTRACT.items():
        assert keys <= set(value[part] if part else value), part
    for stage in value["stages"].values():
        assert {"median_ms", "mean_ms", "share"} <= set(stage)
    for finding in value["findings"]:
        assert set(finding) >= FINDING
        assert set(finding["gain"]) == {"step_ms_low", "step_ms_high", "speedup_low", "speedup_high"}
        assert set(finding["fix"]) == {"summary", "code", "file", "line"}
    assert value["memory"]["stages"]["forward"] == {"peak_bytes": 1_391_000_000}
    assert value["verdict"]["bottleneck"] == "data-preprocessing"
    assert value["verdict"]["severity"] == "critical"


def test_the_summary_of_the_sample_is_what_a_person_reviewed():
    assert json.loads(SNAPSHOT.read_text()) == summary(sample_result.data_bound())


@pytest.mark.parametrize("name", sorted(sample_result.ALL))
def test_shares_of_the_stages_sum_to_one(name):
    stages = summary(sample_result.ALL[name]())["stages"]
    assert not stages or math.fsum(stage["share"] for stage in stages.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", sorted(sample_result.ALL))
def test_every_summary_survives_strict_json(name):
    value = summary(sample_result.ALL[name]())
    assert json.loads(summary_bytes(value), parse_constant=pytest.fail) == value


def test_what_was_not_measured_is_null_or_absent_and_never_zero():
    value = summary(sample_result.too_short())
    assert "host_to_device" not in value["stages"] and "communication" not in value["stages"]
    assert value["workers"] is None
    assert value["device"] is None
    assert value["memory"]["peak_rss_bytes"] is None
    assert value["overhead"]["us_per_step"] is None
    assert value["not_measured"]["workers"] == "no batch was prepared in full"
    assert summary(sample_result.no_training())["steps"] is None


def test_numbers_that_are_not_finite_become_null():
    result = sample_result.data_bound()
    facts = replace(result.facts, steps=replace(result.facts.steps, median_ms=math.nan, p95_ms=math.inf))
    steps = summary(replace(result, facts=facts))["steps"]
    assert steps["median_ms"] is None and steps["p95_ms"] is None


def test_values_of_any_type_in_the_settings_become_plain_json():
    result = sample_result.data_bound()
    settings = replace(result.facts.settings, values={"a": {1, 2}, "b": (Path("x"), 1.5), "c": {3: None}})
    value = summary(replace(result, facts=replace(result.facts, settings=settings)))
    assert value["settings"]["values"] == {"a": [1, 2], "b": ["x", 1.5], "c": {"3": None}}


def test_stages_that_do_not_add_up_are_told_first():
    facts = sample_result.data_bound().facts
    assert notices(facts) == ()
    stages = {name: stage for name, stage in facts.stages.items() if name != "backward"}
    assert notices(replace(facts, stages=stages))[0].startswith("the stages add up to 83.0 %")


def test_the_clock_of_the_stage_times_is_named():
    assert summary(sample_result.host_times())["clock"] == "host"
    result = sample_result.host_times()
    machine = replace(result.facts.machine, device_times=True)
    assert summary(replace(result, facts=replace(result.facts, machine=machine)))["clock"] == "device"


def test_a_summary_reads_back_as_written(tmp_path):
    value = summary(sample_result.hostile())
    path = tmp_path / "summary.json"
    path.write_bytes(summary_bytes(value))
    assert read_summary(path) == value


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"schema_version": 2}', "was written by a newer prof (schema 2; this one reads up to 1)"),
        ('{"schema_version": "1"}', "names no schema_version"),
        ("[]", "names no schema_version"),
        ('{"schema_version": 1, "run"', "it is not JSON"),
        ("\x00\xff", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
    ],
)
def test_a_summary_that_is_not_ours_is_refused_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "summary.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ProfError) as raised:
        read_summary(path)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
