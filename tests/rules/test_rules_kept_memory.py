"""The rules of memory that is kept, copied or missed, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import facts, gpu, loader, memory, settings, span, workers

from profiler.analysis.facts import KeptGraph, ProcessFacts
from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.memory.allocation_retries import AllocationRetries
from profiler.rules.memory.evaluation_graph import EvaluationGraph
from profiler.rules.memory.fragmentation import Fragmentation
from profiler.rules.memory.kept_graph import KeptGraphs
from profiler.rules.memory.python_objects import PythonObjects
from profiler.rules.memory.worker_copies import WorkerCopies

TRAIN, GIB, MIB = "/home/ada/vision/train.py", 2**30, 2**20


# memory/evaluation-graph


def evaluating(with_graph: float | None, total_s: float = 20.0):
    return facts(spans=(replace(span("evaluation", total_s, 100.0), with_graph=with_graph),))


def test_an_evaluation_with_gradients_is_told_with_its_line():
    finding = EvaluationGraph().check(evaluating(1.0))
    assert isinstance(finding, Finding)
    assert finding.title == (
        "every evaluation at train.py:70 ran with gradients switched on, and no backward pass followed"
    )
    assert (finding.fix.line, finding.severity) == (70, Severity.WARNING)
    assert EvaluationGraph().check(evaluating(0.6, 9.0)).severity is Severity.INFO


def test_an_evaluation_in_inference_mode_is_silent_and_an_unseen_one_is_not_judged():
    assert EvaluationGraph().check(evaluating(0.0)) is None
    assert EvaluationGraph().check(facts()) is None
    assert isinstance(EvaluationGraph().check(evaluating(None)), Abstention)


# memory/kept-graph


def keeping(*kept: KeptGraph, growth=(2 * MIB, 1000 * MIB)):
    return facts(memory=memory(*growth, kept_graphs=kept))


LIST = KeptGraph("list", 450, 524_288, "history", Site(TRAIN, 36))


def test_a_list_that_keeps_graphs_is_named_and_speaks_for_the_growth():
    judgement = judge(keeping(LIST))
    finding = judgement.findings[0]
    assert finding.rule == "memory/kept-graph"
    assert finding.title == (
        "`history` keeps the graphs of past steps alive at train.py:36: 450 of them when last seen"
    )
    assert (finding.fix.line, finding.severity) == (36, Severity.WARNING)
    assert finding.fix.code.startswith("history.append(loss.item())")
    assert "memory/growth" in [folded.rule for folded, _ in judgement.folded]


def test_what_has_no_name_or_no_line_is_told_so():
    (finding,) = KeptGraphs().check(keeping(replace(LIST, name=None, site=None)))
    assert finding.title.startswith("a list keeps the graphs of past steps alive: 450")
    assert "Which line adds to it could not be told" in finding.why
    assert finding.fix.line is None


def test_a_sum_of_losses_is_cured_as_a_sum():
    (finding,) = KeptGraphs().check(keeping(KeptGraph("sum", 200, None, "total", Site(TRAIN, 40))))
    assert finding.fix.code.startswith("total += loss.item()")


def test_kept_graphs_are_as_urgent_as_the_growth_they_cause():
    (finding,) = KeptGraphs().check(keeping(LIST, growth=(20 * MIB, 10 * GIB)))
    assert finding.severity is Severity.CRITICAL


def test_nothing_kept_is_silent():
    assert KeptGraphs().check(keeping()) is None
    assert KeptGraphs().check(keeping(replace(LIST, count=15))) is None


# memory/python-objects


def piling(blocks: float | None, growth_bytes_per_step: float = 200_000.0):
    its = memory(growth_bytes_per_step, 100 * MIB, python_blocks_per_step=blocks)
    return facts(memory=its)


def test_objects_that_pile_up_are_told_by_how_many():
    judgement = judge(piling(4000.0))
    finding = judgement.findings[0]
    assert finding.rule == "memory/python-objects"
    assert finding.title.startswith("each step leaves 4,000 Python objects behind, and the process grows by 195 KiB")
    assert "memory/growth" in [folded.rule for folded, _ in judgement.folded]


@pytest.mark.parametrize("blocks", [None, 99.0, 2400.0])
def test_growth_that_is_not_of_objects_is_left_to_its_rule(blocks):
    assert PythonObjects().check(piling(blocks)) is None  # 2,400 x 24 B are 29 % of it
    assert judge(piling(blocks)).findings[0].rule == "memory/growth"


# memory/worker-copies


def copying(grew_mib: float | None, **changes):
    grew = None if grew_mib is None else int(grew_mib * MIB)
    seen = ProcessFacts(2, 3, 0.05, 4.0, 300 * MIB, grew, 200 if grew_mib else None)
    its = replace(loader(2), **changes)
    return facts(workers=workers(2, 0, 4, 1, process_facts=seen), settings=settings((its,)))


def test_pages_that_workers_copied_are_counted():
    finding = WorkerCopies().check(copying(160))
    assert isinstance(finding, Finding)
    assert finding.title == "2 workers copied 160 MiB of pages that they shared with the training, in 200 batches"
    assert (finding.fix.line, finding.severity) == (31, Severity.INFO)
    assert WorkerCopies().check(copying(4 * 1024)).severity is Severity.WARNING  # of 16 GiB


def test_workers_that_copy_little_or_never_shared_are_silent():
    assert WorkerCopies().check(copying(63)) is None
    assert WorkerCopies().check(copying(160, context="spawn")) is None
    assert WorkerCopies().check(facts()) is None
    assert isinstance(WorkerCopies().check(copying(None)), Abstention)


# memory/allocation-retries and memory/fragmentation, by the allocator's own statistics


def on_device(**changes):
    held = memory(peak_device_bytes=70 * GIB, device_capacity_bytes=80 * GIB, reserved_device_bytes=78 * GIB, **changes)
    return facts(machine=gpu(True), memory=held)


def test_retries_while_the_steps_ran_are_told():
    finding = AllocationRetries().check(on_device(alloc_retries=3))
    assert isinstance(finding, Finding)
    assert finding.title.startswith("3 times in 500 steps the device had no memory")
    assert finding.severity is Severity.WARNING
    assert AllocationRetries().check(on_device(alloc_retries=0)) == []
    assert isinstance(AllocationRetries().check(on_device()), Abstention)
    assert AllocationRetries().check(facts()) == []


def test_free_pieces_are_told_and_are_a_warning_once_they_were_missed():
    finding = Fragmentation().check(on_device(inactive_bytes=20 * GIB, alloc_retries=0))
    assert isinstance(finding, Finding)
    assert finding.title == "26 % of the reserved 78.0 GiB was free in pieces: 20.0 GiB"
    assert finding.severity is Severity.INFO
    assert Fragmentation().check(on_device(inactive_bytes=20 * GIB, alloc_retries=1)).severity is Severity.WARNING
    assert Fragmentation().check(on_device(inactive_bytes=15 * GIB)) == []
    assert isinstance(Fragmentation().check(on_device()), Abstention)
