"""The search: everything it offers fits, nothing that fits is faster, and it is quick."""

from __future__ import annotations

import time

import numpy as np
import pytest
from plan_requests import planned

from profiler.planner.alternatives import alternatives, find_layouts
from profiler.planner.catalogue import known_device, known_model
from profiler.planner.layout import Layout, impossible
from profiler.planner.plan import Request, make_plan
from profiler.planner.search import MICRO_BATCHES, candidates, search


def test_a_hundred_thousand_candidates_take_under_two_seconds() -> None:
    request = Request(known_model("gpt3-175b"), known_device("a100-80gb"), 1024, flash=False)
    start = time.process_time()
    findings = search(request, device_counts=[16 * count for count in range(1, 201)])
    assert findings.candidates >= 100_000
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("model", "gpu", "devices"), [("gpt3-175b", "a100-80gb", 1024), ("llama3-8b", "h100", 8), ("gpt2", "rtx-3090", 2)]
)
def test_what_the_search_offers_fits_and_is_planned_the_same_alone(model: str, gpu: str, devices: int) -> None:
    findings = search(Request(known_model(model), known_device(gpu), devices))
    assert findings.found
    for found in findings.found:
        plan = make_plan(found.request)
        assert plan.memory.fits == "yes"
        assert plan.memory.per_device[1] == pytest.approx(found.device_high_bytes)
        assert plan.time.step_s is not None and plan.layout is not None
        per_sample = plan.time.step_s * devices / float(plan.layout.samples_per_step)
        assert per_sample == pytest.approx(found.seconds_per_sample)


def test_no_fitting_layout_of_a_small_search_is_faster_than_the_first() -> None:
    request = Request(known_model("llama3-8b"), known_device("h100"), 8)
    best = search(request).found[0]
    layout = candidates(known_model("llama3-8b"), request, [8], "bf16-mixed", MICRO_BATCHES)
    for index in range(len(layout.devices)):
        row = layout.row(index)
        options = {"tensor": int(row.tensor), "pipeline": int(row.pipeline), "micro_batch": int(row.micro_batch)}
        options |= {
            "strategy": ("ddp", "zero1", "zero2", "zero3")[int(row.zero)],
            "sequence_parallel": bool(row.sequence_parallel),
        }
        plan = planned("llama3-8b", "h100", 8, recompute=("none", "selective", "full")[int(row.recompute)], **options)
        if plan.memory.fits == "yes":
            assert plan.time.step_s is not None and plan.layout is not None
            assert plan.time.step_s * 8 / float(plan.layout.samples_per_step) >= best.seconds_per_sample * 0.998


def test_every_candidate_is_possible() -> None:
    model = known_model("gpt3-13b")
    request = Request(model, known_device("a100-40gb"), 64)
    layout = candidates(model, request, [8, 24, 64], "bf16-mixed", MICRO_BATCHES)
    rows = np.random.default_rng(0).choice(len(layout.devices), 100)
    assert [reason for index in rows if (reason := impossible(model, layout.row(int(index))))] == []


def test_a_plan_that_does_not_fit_is_offered_changes_that_do() -> None:
    plan = planned(devices=1024, strategy="zero3", units=300e9)
    assert plan.memory.fits == "no"
    found = alternatives(plan, find_layouts(plan))
    assert found[0].fits == "yes"
    assert any(each.change == "--recompute full" and each.fits == "yes" for each in found)


def test_fp32_is_offered_mixed_precision_first() -> None:
    plan = planned("gpt2", "rtx-3090", precision="fp32", units=9e9)
    assert alternatives(plan)[0].change == "--precision bf16-mixed"


def test_candidates_of_one_row_are_a_layout_of_floats() -> None:
    row = candidates(
        known_model("gpt2"), Request(known_model("gpt2"), known_device("h100"), 1), [1], "bf16-mixed", (1,)
    ).row(0)
    assert isinstance(row, Layout) and isinstance(row.micro_batch, float)
