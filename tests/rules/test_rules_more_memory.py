"""The rules of memory's capacity, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import HEALTHY_MS, cpu, facts, gpu, loader, memory, settings, steps, workers

from profiler.rules.base import Abstention, Bottleneck, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.memory.activations_dominate import ActivationsDominate
from profiler.rules.memory.near_capacity import NearCapacity
from profiler.rules.memory.optimizer_states_dominate import OptimizerStatesDominate
from profiler.rules.memory.unused_capacity import UnusedCapacity
from profiler.rules.memory.workers import Workers

GIB = 2**30
ACTIVATIONS = {"parameters": 4 * GIB, "gradients": 4 * GIB, "optimizer": 8 * GIB, "activations": 48 * GIB}
STATES = {"parameters": 10 * GIB, "gradients": 10 * GIB, "optimizer": 20 * GIB, "activations": 10 * GIB}


def on_device(peak_gib: float | None, capacity_gib: int | None = 80, **changes):
    peak = None if peak_gib is None else int(peak_gib * GIB)
    capacity = None if capacity_gib is None else capacity_gib * GIB
    held = memory(peak_device_bytes=peak, device_capacity_bytes=capacity, **changes)
    return facts(machine=gpu(True), memory=held)


def on_cpu(rss_gib: float, **changes):
    return facts(memory=memory(peak_rss_bytes=int(rss_gib * GIB), **changes))


# memory/near-capacity


def test_a_device_that_is_nearly_full_is_told_with_its_bytes():
    finding = NearCapacity().check(on_device(74, reserved_device_bytes=78 * GIB))
    assert isinstance(finding, Finding)
    assert finding.severity is Severity.INFO
    assert finding.title == "the device's memory is 92 % full at its peak: 74.0 GiB of 80.0 GiB"
    assert "leaves 6.0 GiB" in finding.why
    assert "keeps 78.0 GiB" in finding.why
    assert finding.evidence["used_share"] == pytest.approx(0.925)
    assert finding.gain is None


def test_a_device_without_room_is_the_verdict():
    judgement = judge(on_device(78))
    assert judgement.verdict.rule == "memory/near-capacity"
    assert judgement.verdict.bottleneck is Bottleneck.MEMORY
    assert judgement.verdict.severity is Severity.WARNING


@pytest.mark.parametrize(("peak_gib", "severity"), [(71.9, None), (72, "info"), (77.5, "info"), (77.61, "warning")])
def test_capacity_is_judged_at_its_thresholds(peak_gib, severity):
    finding = NearCapacity().check(on_device(peak_gib))
    assert (finding.severity.value if finding else None) == severity


def test_a_machine_is_told_only_since_mapped_files_count():
    finding = NearCapacity().check(on_cpu(15.8))
    assert finding.severity is Severity.INFO
    assert "the machine's memory is 99 % full" in finding.title
    assert "mapped" in finding.why
    assert NearCapacity().check(on_cpu(14.3)) is None


def test_pages_that_workers_share_fill_no_machine():
    assert NearCapacity().check(on_cpu(4, workers_peak_rss_bytes=14 * GIB)) is None


def test_memory_without_a_capacity_or_a_reading_is_not_judged():
    assert "capacity" in NearCapacity().check(on_device(74, None)).reason
    assert isinstance(NearCapacity().check(on_device(None)), Abstention)
    unread = facts(memory=memory(peak_rss_bytes=None), not_measured={"memory": "the sampler took no reading of memory"})
    assert NearCapacity().check(unread).reason == "the sampler took no reading of memory"
    assert isinstance(NearCapacity().check(facts(machine=cpu(memory_bytes=0))), Abstention)
    assert NearCapacity().check(replace(on_device(78), steps=None)) is None


# memory/activations-dominate


def test_activations_that_fill_the_device_are_told_with_their_module():
    blocks = (("blocks.3 (Block)", 6 * GIB), ("blocks.1 (Block)", 5 * GIB))
    finding = ActivationsDominate().check(on_device(66, categories_bytes=ACTIVATIONS, activations_by_module=blocks))
    assert finding.severity is Severity.INFO
    assert finding.title == "activations take 48.0 GiB, 75 % of what a step holds and 60 % of the device's memory"
    assert "6.0 GiB, are kept by blocks.3 (Block)" in finding.why
    assert "checkpoint(block, x, use_reentrant=False)" in finding.fix.code
    assert finding.fix.line == 41


def test_activations_are_a_warning_where_memory_is_nearly_full():
    assert ActivationsDominate().check(on_device(72, categories_bytes=ACTIVATIONS)).severity is Severity.WARNING


def test_checkpointed_activations_are_silent():
    cured = ACTIVATIONS | {"activations": 12 * GIB}
    assert ActivationsDominate().check(on_device(30, categories_bytes=cured)) is None


def test_activations_are_judged_by_their_share_and_by_the_capacity():
    at = ACTIVATIONS | {"activations": 24 * GIB}  # 24 of 40 GiB: 60 %
    assert ActivationsDominate().check(on_device(45, categories_bytes=at)) is not None
    below = ACTIVATIONS | {"activations": 23 * GIB}
    assert ActivationsDominate().check(on_device(45, categories_bytes=below)) is None
    assert ActivationsDominate().check(on_device(45, 96, categories_bytes=at)) is not None
    assert ActivationsDominate().check(on_device(45, 97, categories_bytes=at)) is None


def test_activations_that_nobody_counted_are_not_judged():
    why = {"memory categories": "no step was looked at for what its memory holds"}
    assert ActivationsDominate().check(facts(not_measured=why)).reason == why["memory categories"]
    assert isinstance(ActivationsDominate().check(on_device(60, None, categories_bytes=ACTIVATIONS)), Abstention)


# memory/optimizer-states-dominate


def test_states_that_fill_the_device_are_told():
    finding = OptimizerStatesDominate().check(on_device(52, categories_bytes=STATES))
    assert finding.severity is Severity.INFO
    assert (
        finding.title == "the states of AdamW take 20.0 GiB, 40 % of what a step holds and 25 % of the device's memory"
    )
    assert finding.fix.line == 25
    assert "Adafactor" in finding.fix.code
    assert OptimizerStatesDominate().check(on_device(72, categories_bytes=STATES)).severity is Severity.WARNING


def test_states_are_shared_where_there_are_processes_to_share_them():
    alone = on_device(52, categories_bytes=STATES)
    finding = OptimizerStatesDominate().check(replace(alone, run=replace(alone.run, ranks=8)))
    assert finding.fix.summary == "Share the states among the 8 processes."
    assert "optimizer_class=AdamW" in finding.fix.code


def test_smaller_states_are_silent():
    assert OptimizerStatesDominate().check(on_device(33, categories_bytes=STATES | {"optimizer": GIB})) is None


def test_states_are_judged_by_their_share_and_by_the_capacity():
    below = STATES | {"optimizer": 19 * GIB}  # 19 of 49 GiB
    assert OptimizerStatesDominate().check(on_device(52, categories_bytes=below)) is None
    assert OptimizerStatesDominate().check(on_device(52, 100, categories_bytes=STATES)) is not None
    assert OptimizerStatesDominate().check(on_device(52, 101, categories_bytes=STATES)) is None


def test_states_without_the_activations_beside_them_are_not_judged():
    assert isinstance(OptimizerStatesDominate().check(facts()), Abstention)
    without = {name: held for name, held in STATES.items() if name != "activations"}
    assert isinstance(OptimizerStatesDominate().check(on_device(52, categories_bytes=without)), Abstention)
    assert isinstance(OptimizerStatesDominate().check(on_device(52, None, categories_bytes=STATES)), Abstention)


# memory/workers


def with_workers(held_gib: float | None, context: str = "fork"):
    held = None if held_gib is None else int(held_gib * GIB)
    return facts(
        memory=memory(workers_peak_rss_bytes=held),
        workers=workers(4, 1, 10, 1),
        settings=settings((loader(4, context=context),)),
    )


def test_forked_workers_that_hold_much_are_a_note_since_they_share_pages():
    finding = Workers().check(with_workers(14))
    assert finding.severity is Severity.INFO
    assert finding.title == "4 workers hold up to 14.0 GiB, 88 % of the machine's 16.0 GiB"
    assert "3.5 GiB for each worker" in finding.why
    assert "share" in finding.why
    assert finding.fix.line == 31


def test_spawned_workers_that_hold_much_are_a_note_since_mapped_files_count():
    assert Workers().check(with_workers(12, "spawn")).severity is Severity.INFO
    assert "4 workers hold 12.0 GiB" in Workers().check(with_workers(12, "spawn")).title


def test_workers_are_judged_at_half_of_the_machine():
    assert Workers().check(with_workers(8)) is not None
    assert Workers().check(with_workers(7.9)) is None
    assert Workers().check(with_workers(1.5)) is None


def test_workers_that_nobody_read_are_not_judged_and_none_are_none():
    assert isinstance(Workers().check(with_workers(None)), Abstention)
    children = facts(memory=memory(workers_peak_rss_bytes=12 * GIB), workers=workers(0, 1, 10, 1))
    assert Workers().check(children) is None


# memory/unused-capacity


def test_a_device_that_is_mostly_empty_has_room_for_a_larger_batch():
    finding = UnusedCapacity().check(on_device(8))
    assert finding.severity is Severity.INFO
    assert finding.title == "90 % of the device's memory is never used: the peak is 8.0 GiB of 80.0 GiB"
    assert "batch_size=64" in finding.fix.code
    assert finding.fix.line == 31
    assert judge(on_device(8)).verdict.bottleneck is Bottleneck.COMPUTE


def test_a_device_in_use_is_silent():
    assert UnusedCapacity().check(on_device(24)) is None
    assert UnusedCapacity().check(on_device(23.9)) is not None
    assert UnusedCapacity().check(on_device(60)) is None


def test_a_larger_batch_is_not_advised_to_a_loop_that_waits_for_data_nor_on_a_cpu():
    waiting = facts(HEALTHY_MS | {"data_wait": 12.0}, machine=gpu(True), memory=on_device(8).memory)
    assert UnusedCapacity().check(waiting) is None
    assert UnusedCapacity().check(facts()) is None
    assert UnusedCapacity().check(replace(on_device(8), steps=steps(100.0, measured=19))) is None
    assert isinstance(UnusedCapacity().check(on_device(8, None)), Abstention)


def test_healthy_memory_is_silent():
    told = [finding.rule for finding in judge(facts()).findings]
    assert [rule for rule in told if rule.startswith("memory/")] == []
