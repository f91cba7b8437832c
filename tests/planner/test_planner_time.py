"""Time and cost: published totals, the terms of a step, and what binds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from plan_requests import planned

from profiler.errors import ProfError
from profiler.planner.catalogue import known_device, known_model
from profiler.planner.efficiency import given_mfu, given_tflops
from profiler.planner.plan import Request, make_plan
from profiler.planner.scaling import optimal_for_budget, optimal_for_flops
from profiler.planner.timing import ring_s


def test_gpt3_takes_355_years_on_a_v100_and_665_on_an_rtx_8000() -> None:
    v100 = planned(gpu="v100", precision="fp16-mixed", units=300e9, efficiency=given_tflops(28, None))
    rtx = planned(gpu="rtx-8000", precision="fp16-mixed", units=300e9, efficiency=given_tflops(15, None))
    assert v100.time.years == pytest.approx(355, abs=1)
    assert rtx.time.years == pytest.approx(665, abs=2)
    assert v100.cost.usd == pytest.approx(4.6e6, rel=0.02)


def test_the_often_told_100_billion_tokens_are_118_years() -> None:
    plan = planned(gpu="v100", precision="fp16-mixed", units=100e9, efficiency=given_tflops(28, None))
    assert plan.time.years == pytest.approx(118, abs=1)


def test_flops_alone_give_the_same_years_without_a_model() -> None:
    request = Request(
        None, known_device("v100"), precision="fp16-mixed", flops=3.14e23, efficiency=given_tflops(28, None)
    )
    plan = make_plan(request)
    assert plan.time.years == pytest.approx(3.14e23 / 28e12 / (365.25 * 86400))
    assert plan.memory.parameters is None and plan.memory.fits == "unsure"


def test_megatrons_34_days_come_from_full_recomputation_at_140_tflops() -> None:
    plan = planned(
        devices=1024,
        tensor=8,
        pipeline=16,
        strategy="zero1",
        recompute="full",
        units=300e9,
        efficiency=given_tflops(140, None),
    )
    assert plan.time.days == pytest.approx(34, rel=0.01)
    assert plan.time.hfu == pytest.approx(plan.time.mfu * 4 / 3)  # type: ignore[operator]


def test_full_recomputation_lowers_mfu_but_not_an_mfu_that_was_given() -> None:
    efficiency = given_mfu(0.4)
    plain = planned(devices=1024, units=300e9, efficiency=efficiency)
    again = planned(devices=1024, units=300e9, efficiency=efficiency, recompute="full")
    assert plain.time.days == again.time.days
    assert again.time.hfu == pytest.approx(0.4 * 4 / 3)


def test_twice_the_devices_never_take_longer_and_seldom_half() -> None:
    days = [planned("llama3-8b", "h100", n, strategy="zero2", units=1e12).time.days for n in (8, 16, 32, 64)]
    for before, after in pairwise(days):
        assert before is not None and after is not None
        assert before / 2 <= after * 1.0001 and after <= before


def test_a_slow_loader_binds_and_the_step_is_its_floor() -> None:
    plan = planned("resnet50", "a100", micro_batch=256, global_batch=256, loader_samples_per_s=100.0)
    assert plan.time.bound_by == "data-loading"
    assert plan.time.step_s == pytest.approx(2.56)


def test_a_slow_network_binds_a_large_model_with_small_steps() -> None:
    plan = planned("gpt2-xl", "rtx-3090", 64, global_batch=64)
    assert plan.time.bound_by == "communication"


def test_pipeline_bubbles_shrink_with_more_micro_batches() -> None:
    few = planned(devices=128, tensor=8, pipeline=16, global_batch=16, micro_batch=1)
    many = planned(devices=128, tensor=8, pipeline=16, global_batch=1536, micro_batch=1)
    assert few.time.bubble_share == pytest.approx(15 / 31)
    assert many.time.bubble_share == pytest.approx(15 / 1551)


def test_a_ring_moves_twice_its_payload_less_one_share() -> None:
    assert float(ring_s(8e9, 1, 1e9)) == 0
    assert float(ring_s(8e9, 8, 1e9)) == pytest.approx(2 * 7 / 8 * 8 / 0.8, rel=1e-4)
    assert np.all(np.diff(ring_s(8e9, np.array([2, 4, 8, 16]), 1e9)) > 0)


def test_goodput_and_price_scale_time_and_cost() -> None:
    whole, half = planned(units=1e9, devices=64), planned(units=1e9, devices=64, goodput=0.5)
    assert half.time.seconds == pytest.approx(2 * whole.time.seconds)  # type: ignore[operator]
    assert half.cost.usd == pytest.approx(2 * whole.cost.usd)  # type: ignore[operator]


def test_what_is_not_known_is_none() -> None:
    plan = planned()
    assert plan.time.step_s is not None
    assert plan.time.seconds is None and plan.cost.usd is None and plan.time.days is None


def test_absurd_efficiencies_are_named_absurd() -> None:
    for call in (
        lambda: given_mfu(0),
        lambda: given_mfu(140),
        lambda: given_tflops(-1, None),
        lambda: given_tflops(400, 312e12),
    ):
        with pytest.raises(ProfError, match="absurd"):
            call()


def test_chinchilla_spends_its_own_flops_on_70_billion_parameters() -> None:
    best = optimal_for_flops(5.88e23)
    assert best.parameters == pytest.approx(70e9, rel=0.001)
    assert best.tokens == pytest.approx(1.4e12, rel=0.001)


def test_a_budget_four_times_as_large_buys_a_model_twice_as_large() -> None:
    small, large = (optimal_for_budget(usd, 2.0, 312e12, 0.5) for usd in (1e5, 4e5))
    assert large.parameters == pytest.approx(2 * small.parameters)


def test_lora_does_less_arithmetic_than_full_training() -> None:
    from profiler.planner.architecture import with_lora
    from profiler.planner.flops import model_flops_per_unit

    model = known_model("llama2-7b")
    full, adapted = (
        model_flops_per_unit(model, attention=False),
        model_flops_per_unit(with_lora(model, 8), attention=False),
    )
    assert full is not None and adapted is not None
    assert adapted / full == pytest.approx(4 / 6, rel=0.01)


def test_expert_parallelism_exchanges_tokens() -> None:
    alone, spread = (planned("mixtral-8x7b", "h100", 8, strategy="zero3", expert=each) for each in (1, 8))
    shape = alone.request.model.shape if alone.request.model else None
    assert shape is not None
    sent = shape.sequence * shape.active_experts * shape.hidden * 2 * 7 / 8
    expected = alone.layout.micro_batches * 4 * shape.layers * (7 * 15e-6 + sent / (0.8 * 450e9))  # type: ignore[union-attr]
    more = spread.time.terms_s["communication"] - alone.time.terms_s["communication"]
    assert more == pytest.approx(expected, rel=0.01)
