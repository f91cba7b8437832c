"""The rules of threads and precision, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import HEALTHY_MS, cpu, facts, gpu, settings

from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Bottleneck, Severity
from profiler.rules.catalogue import judge
from profiler.rules.compute.mixed_precision import MixedPrecision
from profiler.rules.compute.threads import Threads

WAITS = {"data_wait": 80.0, "forward": 6.0, "backward": 12.0, "optimizer": 1.5, "other": 0.5}

# compute/threads


def threaded(threads: int | None, idle: float | None, cores: int = 8, times_ms=None, sites=None, **values):
    if threads is not None:
        values["torch_num_threads"] = threads
    known = replace(settings(), values=values, sites=sites or {})
    return facts(times_ms or HEALTHY_MS, machine=cpu(idle, cores), settings=known)


def test_few_threads_beside_idle_cores_are_a_note_with_the_place():
    site = Site("/home/ada/vision/train.py", 9)
    few = threaded(1, 6.9, sites={"torch_num_threads": site})
    finding = Threads().check(few)
    assert finding.severity is Severity.INFO
    assert finding.title == "PyTorch runs 1 thread while 6.9 of 8 cores are idle"
    assert "The script sets the number." in finding.why
    assert (finding.fix.line, finding.fix.summary) == (9, "Try 7 threads, and measure.")
    assert judge(few).verdict.bottleneck is Bottleneck.COMPUTE
    assert judge(few).verdict.severity is Severity.INFO


def test_a_variable_that_sets_the_threads_is_named():
    assert "OMP_NUM_THREADS is 1." in Threads().check(threaded(1, 6.9, OMP_NUM_THREADS="1")).why


def test_threads_that_fill_the_cores_are_silent():
    assert Threads().check(threaded(8, 0.4)) is None
    assert Threads().check(threaded(4, 4.0)) is None  # one for each physical core
    assert Threads().check(threaded(3, 4.0)) is not None
    assert Threads().check(threaded(3, 3.9)) is None


def test_one_thread_of_two_cores_is_no_waste():
    assert Threads().check(threaded(1, 1.0, cores=2)) is None
    assert Threads().check(threaded(1, 1.9, cores=3)) is None


def test_more_threads_than_cores_are_a_note():
    finding = Threads().check(threaded(16, 0.1))
    assert finding.severity is Severity.INFO
    assert finding.title == "PyTorch runs 16 threads on 8 cores"
    assert "set_num_threads(8)" in finding.fix.code
    assert Threads().check(threaded(9, 0.1)) is not None


def test_threads_matter_to_arithmetic_alone():
    assert Threads().check(threaded(1, 6.9, times_ms=WAITS)) is None
    assert Threads().check(replace(threaded(1, 6.9), machine=gpu(True))) is None


def test_threads_or_cores_that_nobody_read_are_not_judged():
    assert isinstance(Threads().check(threaded(None, 6.9)), Abstention)
    assert isinstance(Threads().check(threaded(1, None)), Abstention)


# compute/mixed-precision


def precise(times_ms=None, dtypes=("float32",), compiled: bool = False, **values):
    made = settings()
    root = replace(made.roots[0], dtypes=dtypes, compiled=compiled, extra={"devices": ["xpu"]})
    return facts(times_ms or HEALTHY_MS, machine=gpu(True), settings=replace(made, roots=(root,), values=values))


def autocast(enabled: bool):
    return {"device": "cuda", "dtype": "bfloat16", "enabled": enabled}


def test_float32_on_an_accelerator_is_a_note():
    finding = MixedPrecision().check(precise())
    assert finding.severity is Severity.INFO
    assert finding.title == "Net computes in float32 on NVIDIA H100, and autocast is not used"
    assert "97 % of each 100 ms step" in finding.why
    assert 'torch.autocast("xpu", dtype=torch.bfloat16)' in finding.fix.code
    assert finding.fix.line == 41
    assert judge(precise()).verdict.bottleneck is Bottleneck.COMPUTE


@pytest.mark.parametrize(
    "cured",
    [
        {"autocast": autocast(True)},
        {"grad_scaler": True},
        {"dtypes": ("bfloat16",)},
        {"dtypes": ("float32", "float16")},
    ],
)
def test_lower_precision_is_silent(cured):
    assert MixedPrecision().check(precise(**cured)) is None


def test_a_cpu_and_a_step_without_arithmetic_are_silent():
    assert MixedPrecision().check(facts()) is None
    half = {"data_wait": 51.0, "forward": 16.0, "backward": 33.0}
    assert MixedPrecision().check(precise(half)) is None
    assert MixedPrecision().check(precise(half | {"data_wait": 49.0})) is not None


@pytest.mark.parametrize(
    "unseen",
    [
        {"autocast": autocast(False)},
        {"compiled": True},
        {"compile": {"class": "compile"}},
        {"fsdp": {"class": "FullyShardedDataParallel"}},
        {"dtypes": ()},
    ],
)
def test_precision_that_may_be_lowered_unseen_is_not_judged(unseen):
    assert isinstance(MixedPrecision().check(precise(**unseen)), Abstention)


def test_host_times_prove_nothing_about_arithmetic():
    judgement = judge(replace(precise(), machine=gpu(False)))
    assert "compute/mixed-precision" in [abstention.rule for abstention in judgement.abstentions]
