"""The rules of memory on snapshots of the allocator, whose truth the allocator of the tests knows."""

from __future__ import annotations

import contextlib
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "record"))

from facts_builder import facts
from snapshot_builder import BATCH, MIB, MODEL, Allocator, Training, module, snapshot

from profiler.analysis.snapshot.build import snapshot_facts
from profiler.analysis.snapshot.run import facts_of
from profiler.record.snapshot import normalise
from profiler.rules.base import Severity
from profiler.rules.catalogue import judge
from profiler.rules.memory.activations_dominate import ActivationsDominate
from profiler.rules.memory.allocation_retries import AllocationRetries
from profiler.rules.memory.fragmentation import Fragmentation
from profiler.rules.memory.optimizer_states_dominate import OptimizerStatesDominate
from profiler.rules.memory.out_of_memory import OutOfMemoryError
from profiler.rules.memory.retained import Retained

GIB = 1024 * MIB


def taken(*devices: Allocator, **more):
    value = snapshot(*devices, **more)
    return facts_of(snapshot_facts(normalise(value, "it", len(pickle.dumps(value))), "it.pickle"), "/home/ada/gpt")


def failing(device: Allocator, size: int, line: int = 13) -> Allocator:
    with contextlib.suppress(MemoryError):
        device.alloc(size, module(40, line), "activations")
        raise AssertionError("it was to fail")
    return device


def holes(capacity=4 * GIB, piece=256 * MIB) -> Allocator:
    device = Allocator(capacity=capacity)
    device.segment(capacity)
    blocks = [device.alloc(piece, module(40, 12), "activations") for _ in range(capacity // piece)]
    for address in blocks[::2]:
        device.free(address, module(40, 12))
    return device


def test_memory_that_ran_out_is_explained_and_is_what_a_run_is_judged_by():
    device = Allocator(capacity=GIB)
    for _ in range(4):
        device.alloc(240 * MIB, module(40, 12), "activations")
    failing(device, 300 * MIB)
    (finding,) = OutOfMemoryError().check(taken(device))
    assert finding.severity is Severity.CRITICAL
    assert finding.title == (
        "out of memory in forward at model.py:13: 300 MiB were asked for, with 960 MiB held and 64.0 MiB left"
    )
    assert finding.why == (
        "Held were activations 960 MiB (100 %). Most of the first was made at model.py:12 (960 MiB in 4 tensors)."
    )
    assert "checkpoint" in finding.fix.code
    assert (finding.fix.file, finding.fix.line) == (MODEL, 12)
    assert Fragmentation().check(taken(device)) == []
    judgement = judge(replace(facts(), snapshot=taken(device).snapshot))
    assert judgement.verdict.rule == "memory/out-of-memory"


def test_a_limit_below_the_device_s_own_end_is_called_one():
    device = Allocator(capacity=GIB)
    for _ in range(4):
        device.alloc(240 * MIB, module(40, 12), "activations")
    found = taken(failing(device, 300 * MIB))
    (of_device,) = found.snapshot.devices
    oom = replace(of_device.ooms[-1], driver_free_bytes=125 * GIB)
    limited = replace(found, snapshot=replace(found.snapshot, devices=(replace(of_device, ooms=(oom,)),)))
    (finding,) = OutOfMemoryError().check(limited)
    assert finding.title.endswith(
        "with 960 MiB held and 125 GiB of the device free: "
        "torch is kept to a part of it, as by set_per_process_memory_fraction"
    )


def test_a_failure_with_bytes_to_spare_is_fragmentation():
    device = failing(holes(), GIB)
    (finding,) = Fragmentation().check(taken(device))
    assert finding.severity is Severity.CRITICAL
    assert finding.title == "1.0 GiB could not be had though 2.0 GiB were free: the largest piece was 256 MiB"
    assert "expandable_segments:True" in finding.fix.code
    assert OutOfMemoryError().check(taken(device)) == []


def test_segments_that_can_grow_already_get_another_cure():
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "expandable_segments": True}
    (finding,) = Fragmentation().check(taken(failing(holes(), GIB), allocator_settings=settings))
    assert "expandable" not in finding.fix.code


def test_pieces_without_a_failure_are_a_note():
    device = holes()
    device.capacity *= 2
    for _ in range(8):  # the fullest moment is one with holes
        device.alloc(300 * MIB, BATCH, "other")
    (finding,) = Fragmentation().check(taken(device))
    assert finding.severity is Severity.INFO
    assert "is free in pieces between blocks in use: 2.0 GiB" in finding.title


@pytest.mark.parametrize("least", [512, 2049])
def test_few_bytes_in_pieces_are_nothing(least):
    device = holes()
    device.capacity *= 2
    for _ in range(8):
        device.alloc(300 * MIB, BATCH, "other")
    assert len(Fragmentation({"least_mib": least}).check(taken(device))) == (least == 512)


def test_a_healthy_training_is_said_nothing_worse_of_than_a_note():
    findings = judge(taken(Training(Allocator()).build().steps(4).device)).findings
    assert [f.rule for f in findings if f.rule.startswith("memory/")] == []


def test_what_steps_leave_behind_is_told_with_its_line():
    training = Training(Allocator(), keep_losses=True).build().steps(8)
    (finding,) = Retained().check(taken(training.device))
    assert finding.severity is Severity.WARNING
    assert finding.title == "35.0 MiB that 7 earlier steps made are still held, 5.0 MiB a step"
    assert (finding.fix.file, finding.fix.line) == (MODEL, 30)
    assert "detach" in finding.fix.code
    assert Retained().check(taken(Training(Allocator()).build().steps(8).device)) == []


def test_where_it_is_what_was_wanting_it_stands_first():
    training = Training(Allocator(capacity=460 * MIB), keep_losses=True).build()
    with contextlib.suppress(MemoryError):
        training.steps(100)
    findings = judge(taken(training.device)).findings
    assert findings[0].rule == "memory/retained"
    assert findings[0].severity is Severity.CRITICAL


def test_retries_are_told_and_empty_cache_is_none():
    device = Allocator(capacity=640 * MIB)
    for size in (400, 500, 450):
        device.free(device.alloc(size * MIB, module(40, 12), "activations"), module(40, 12))
    (finding,) = AllocationRetries().check(taken(device))
    assert finding.title == "1 time the device had no memory until everything cached was given back"
    assert finding.severity is Severity.WARNING
    assert AllocationRetries().check(taken(Training(Allocator()).build().steps(2).device)) == []


def test_activations_and_states_that_dominate_are_notes():
    device = Allocator()
    device.alloc(300 * MIB, module(40, 12), "activations")
    device.alloc(100 * MIB, BATCH, "other")
    (finding,) = ActivationsDominate().check(taken(device))
    assert finding.title == "activations take 300 MiB, 75 % of what was held at the peak"
    assert finding.severity is Severity.INFO
    small = Training(Allocator()).build().steps(1)
    for address in [a for a, (label, _) in small.device.labels.items() if label == "activations"]:
        small.device.free(address, BATCH)
    states = taken(small.device, device_traces=[])
    (finding,) = OptimizerStatesDominate().check(states)
    assert finding.title == "optimizer states take 64.0 MiB, 67 % of what was held at the peak"


def test_the_device_is_named_where_there_are_several():
    (finding,) = Retained().check(
        taken(
            Training(Allocator(0)).build().steps(8).device,
            Training(Allocator(1), keep_losses=True).build().steps(8).device,
        )
    )
    assert "on device 1" in finding.title


def test_a_run_without_a_snapshot_is_not_judged_by_one():
    for rule in (OutOfMemoryError(), Fragmentation(), AllocationRetries(), Retained()):
        assert rule.check(facts()) == []
