"""The data rules, on facts made by hand."""

from __future__ import annotations

import pytest
from facts_builder import cpu, facts, gpu, line, loader, settings, stages, steps, workers

from profiler.rules.base import Abstention, Bottleneck, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.data.heavy_preprocessing import HeavyPreprocessing
from profiler.rules.data.slow_collate import SlowCollate
from profiler.rules.data.slow_storage import SlowStorage
from profiler.rules.data.too_few_workers import TooFewWorkers

WAITS = {"data_wait": 80.0, "forward": 6.0, "backward": 12.0, "optimizer": 1.5, "other": 0.5}
CURED = {"data_wait": 0.5, "forward": 6.0, "backward": 12.0, "optimizer": 1.5, "other": 0.5}
RULES = (TooFewWorkers, SlowStorage, HeavyPreprocessing, SlowCollate)
BLUR = line(55, 60.0, "img = img.filter(BLUR)", "PIL.ImageFilter.filter", function="__getitem__")


def found(rule, its_facts) -> Finding:
    said = rule().check(its_facts)
    assert isinstance(said, Finding), said
    return said


def test_loading_on_the_training_thread_beside_idle_cores_asks_for_workers():
    finding = found(TooFewWorkers, facts(WAITS, workers=workers(0, 4, 74, 2), machine=cpu(6.8)))
    assert finding.bottleneck is Bottleneck.DATA_PREPROCESSING
    assert finding.severity is Severity.CRITICAL
    assert (finding.fix.file, finding.fix.line) == ("/home/ada/vision/train.py", 31)
    assert "num_workers=5" in finding.fix.code  # 80 ms a batch / (0.9 x 20 ms a step), rounded up
    assert finding.title == (
        "80 % of each 100 ms step waits for batches that take 80 ms to make, while 6.8 of 8 cores stood idle"
    )


def test_the_promised_step_is_bounded_by_compute_by_arrival_and_by_idle_cores():
    by_compute = found(TooFewWorkers, facts(WAITS, workers=workers(0, 0, 80, 0), machine=cpu(6.8)))
    assert by_compute.gain.step_ms_low >= 20.0
    by_idle_cores = found(TooFewWorkers, facts(WAITS, workers=workers(0, 0, 80, 0), machine=cpu(1.0, cores=2)))
    assert by_idle_cores.gain.step_ms_low == pytest.approx(50.0)  # half of the cores' time was used already
    starved = found(TooFewWorkers, facts(WAITS, workers=workers(2, 0, 198, 0), machine=cpu(1.0, cores=4)))
    assert starved.gain.step_ms_low == pytest.approx(75.0)  # 3 of 4 cores were busy for 100 ms


def test_the_gain_range_can_be_wrong():
    for its_workers, machine in ((workers(0, 4, 74, 2), cpu(6.8)), (workers(2, 0, 198, 0), cpu(5.5))):
        gain = found(TooFewWorkers, facts(WAITS, workers=its_workers, machine=machine)).gain
        assert 1.0 < gain.speedup_high / gain.speedup_low <= 1.5 + 1e-9


def test_more_workers_are_not_advised_when_every_core_computes():
    busy = facts(WAITS, workers=workers(2, 0, 198, 0), machine=cpu(0.1, cores=4))
    assert TooFewWorkers().check(busy) is None
    assert judge(busy).verdict.rule == "data/heavy-preprocessing"


def test_more_workers_are_not_advised_beyond_the_cores():
    assert TooFewWorkers().check(facts(WAITS, workers=workers(8, 0, 790, 0), machine=cpu(3.0))) is None


def test_more_workers_are_not_advised_for_batches_that_cost_less_than_handing_them_over():
    tiny = {"data_wait": 0.6, "forward": 0.2, "backward": 0.4, "optimizer": 0.1}
    assert TooFewWorkers().check(facts(tiny, workers=workers(0, 0, 0.5, 0.1), machine=cpu(6.8))) is None


def test_more_workers_are_not_advised_for_tensors_in_memory():
    in_memory = settings((loader(dataset="TensorDataset"),))
    said = TooFewWorkers().check(facts(WAITS, workers=workers(0, 0, 40, 40), machine=cpu(6.8), settings=in_memory))
    assert isinstance(said, Abstention)
    assert "in memory" in said.reason


def test_workers_are_not_promised_to_help_while_idle_cores_were_not_measured():
    unknown = facts(WAITS, workers=workers(0, 4, 74, 2), machine=cpu(None))
    said = TooFewWorkers().check(unknown)
    assert isinstance(said, Abstention)
    assert "idle" in said.reason
    assert judge(unknown).verdict.rule == "data/heavy-preprocessing"


def test_an_iterable_data_set_is_told_to_split_its_stream():
    stream = settings((loader(iterable=True, shuffle=None),))
    finding = found(TooFewWorkers, facts(WAITS, workers=workers(0, 4, 74, 2), machine=cpu(6.8), settings=stream))
    assert "get_worker_info" in finding.fix.code


def test_several_batches_a_step_count_together():
    accumulating = facts(
        WAITS, steps=steps(100.0, batches=4.0, micro_batches=4.0), workers=workers(0, 0, 20, 0), machine=cpu(6.8)
    )
    finding = found(TooFewWorkers, accumulating)
    assert "num_workers=5" in finding.fix.code  # 4 x 20 ms / (0.9 x 20 ms)


def test_starting_workers_each_epoch_is_not_taken_for_slow_batches():
    restarted = facts(
        WAITS,
        stages=stages(WAITS, data_wait={"iter": 79.0, "next": 1.0}),
        workers=workers(2, 0, 40, 0),
        machine=cpu(6.0),
    )
    assert all(rule().check(restarted) is None for rule in RULES)


def test_blocked_workers_are_a_matter_of_storage():
    finding = found(SlowStorage, facts(WAITS, workers=workers(0, 70, 8, 2, read_bytes=2e6), machine=cpu(6.8)))
    assert finding.bottleneck is Bottleneck.DATA_LOADING
    assert "70 ms of their 80 ms blocked" in finding.title
    assert "num_workers=5" in finding.fix.code


def test_workers_that_wait_for_storage_help_even_without_idle_cores():
    busy = facts(WAITS, workers=workers(0, 70, 8, 2), machine=cpu(0.1, cores=2))
    assert judge(busy).verdict.rule == "data/slow-storage"


def test_storage_at_its_limit_is_not_given_more_workers():
    finding = found(SlowStorage, facts(WAITS, workers=workers(4, 360, 20, 10, read_bytes=1e8), machine=cpu(6.8)))
    assert "num_workers" not in finding.fix.code
    assert finding.evidence["read_mb_s"] == pytest.approx(1e8 / 1e6 / 0.36)


def test_preprocessing_names_the_hottest_line_and_what_ran_there():
    finding = found(HeavyPreprocessing, facts(WAITS, workers=workers(0, 4, 74, 2, lines=(BLUR,)), machine=cpu(0.1)))
    assert (finding.fix.file, finding.fix.line) == ("/home/ada/vision/train.py", 55)
    assert "`img = img.filter(BLUR)`" in finding.why
    assert "PIL.ImageFilter.filter" in finding.why
    assert finding.gain.step_ms_low >= 40.0  # no more than the line's own 60 ms can go


def test_too_few_workers_is_the_cause_of_preprocessing_that_idle_cores_could_take():
    judgement = judge(facts(WAITS, workers=workers(0, 4, 74, 2, lines=(BLUR,)), machine=cpu(6.8)))
    assert [finding.rule for finding in judgement.findings] == ["data/too-few-workers"]
    assert ("data/heavy-preprocessing", "data/too-few-workers") in [(f.rule, by) for f, by in judgement.folded]
    assert "train.py:55" in judgement.findings[0].why


def test_collating_is_named_when_it_is_the_longest_part():
    finding = found(SlowCollate, facts(WAITS, workers=workers(8, 40, 200, 560), machine=cpu(0.2)))
    assert "560 ms to collate" in finding.title
    assert HeavyPreprocessing().check(facts(WAITS, workers=workers(8, 40, 200, 560), machine=cpu(0.2))) is None


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("parts", [(0.5, 70, 2), (70, 2, 2), (2, 5, 70)])
def test_cured_twin_is_silent(rule, parts):
    assert rule().check(facts(CURED, workers=workers(8, *parts), machine=cpu(3.0))) is None


@pytest.mark.parametrize("rule", RULES)
def test_rules_abstain_when_workers_were_not_observed(rule):
    said = rule().check(facts(WAITS, not_measured={"workers": "the workers were started by exec"}))
    assert said == Abstention(rule.id, "the workers were started by exec")


@pytest.mark.parametrize("rule", RULES)
def test_a_loop_without_a_loader_is_no_matter_of_data(rule):
    assert rule().check(facts({"forward": 30.0, "backward": 60.0})) is None


def test_workers_that_keep_up_are_not_blamed():
    said = TooFewWorkers().check(facts(WAITS, workers=workers(4, 0, 80, 0), machine=cpu(5.0)))
    assert isinstance(said, Abstention)
    assert "4 workers could deliver every 20 ms" in said.reason


def test_a_wait_that_the_device_may_have_used_is_never_critical_and_says_so():
    judgement = judge(facts(WAITS, workers=workers(0, 4, 74, 2), machine=gpu(device_times=False)))
    assert judgement.verdict.severity is Severity.WARNING
    assert "host times" in judgement.verdict.summary
    assert "host times" in judgement.findings[0].why


def test_batches_whose_makers_wait_for_a_core_are_said_to():
    held_up = workers(2, 1, 4, 1, run_delay_ms=44, batch_ms=50)
    verdict = judge(facts(WAITS, workers=held_up, machine=cpu(0.0, cores=2))).verdict
    assert verdict.summary.endswith("88 % of it waiting for a core.")
    alone = workers(2, 1, 40, 1, run_delay_ms=4, batch_ms=46)
    assert "waiting for a core" not in judge(facts(WAITS, workers=alone, machine=cpu(0.0, cores=2))).verdict.summary


def test_where_workers_wait_for_cores_the_rest_of_the_step_gains_too():
    crowded = workers(2, 0, 135, 0, run_delay_ms=15.0, batch_ms=150.0)  # a tenth of a batch is waiting for a core
    slow = {"data_wait": 40.0, "forward": 20.0, "backward": 38.0, "optimizer": 2.0}
    gain = found(HeavyPreprocessing, facts(slow, workers=crowded, machine=cpu(0.0, cores=2))).gain
    assert gain.step_ms_high == pytest.approx(60.0 * (1 - 0.8 * 0.1 * 0.5))  # half of the preprocessing goes
    assert gain.step_ms_low == pytest.approx(60.0 * (1 - 2 * 0.1))
    behind = found(HeavyPreprocessing, facts(slow, workers=crowded, machine=gpu(device_times=False))).gain
    assert (behind.step_ms_low, behind.step_ms_high) == pytest.approx((60.0, 60.0))
