"""Memory: what a category holds, how it is sharded, and whether it fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_requests import planned

from profiler.errors import ProfError
from profiler.planner import activations
from profiler.planner.architecture import transformer, transformer_model, with_lora
from profiler.planner.catalogue import known_device, known_model
from profiler.planner.plan import Request, make_plan
from profiler.planner.states import known_optimizer, known_precision, optimizer_bytes


def test_gpt3_in_fp32_is_700_2100_and_2800_gigabytes() -> None:
    memory = planned(precision="fp32", optimizer="adam").memory
    assert memory.parameters == 700e9
    assert memory.optimizer == 1400e9
    assert memory.gradients == 700e9


def test_gpt3_needs_more_than_one_80_gb_card_and_35_hold_its_states() -> None:
    assert planned().memory.fits == "no"
    states = 175e9 * 16
    assert states / 35 <= 80e9 < states / 34


@pytest.mark.parametrize(
    ("strategy", "options", "fits"),
    [
        ("ddp", {}, "no"),
        ("zero3", {}, "no"),
        ("zero3", {"recompute": "full"}, "yes"),
        ("zero1", {"tensor": 8, "pipeline": 16}, "yes"),
    ],
)
def test_gpt3_on_1024_cards_fits_only_where_states_and_activations_are_split(
    strategy: str, options: dict, fits: str
) -> None:
    assert planned(devices=1024, strategy=strategy, **options).memory.fits == fits


def test_the_least_number_of_cards_fits_and_one_fewer_does_not() -> None:
    request = Request(known_model("gpt3-175b"), known_device("a100-80gb"), 1024, strategy="zero3", recompute="full")
    least = make_plan(request).memory.least_devices
    assert least is not None
    assert least > 35, "states alone fill 35 cards"
    assert make_plan(replace(request, devices=least)).memory.fits == "yes"
    assert make_plan(replace(request, devices=least - 1)).memory.fits != "yes"


def test_no_number_of_replicas_helps_where_nothing_is_sharded() -> None:
    assert planned(devices=1024, strategy="ddp").memory.least_devices is None


@pytest.mark.parametrize(("name", "bytes_"), [("sgd", 0), ("momentum", 4), ("adamw", 8), ("adam8bit", 2), ("lion", 4)])
def test_optimizers_hold_what_their_papers_say(name: str, bytes_: float) -> None:
    assert optimizer_bytes(known_optimizer(name), known_precision("fp32")) == bytes_
    assert optimizer_bytes(known_optimizer(name), known_precision("bf16-mixed")) == bytes_ + 4


def test_adam_states_follow_bf16_weights_without_master_copies() -> None:
    assert optimizer_bytes(known_optimizer("adam"), known_precision("bf16")) == 4


SHAPES = st.builds(
    lambda layers, heads, width, vocabulary, sequence: transformer(
        layers=layers, hidden=heads * width, heads=heads, vocabulary=vocabulary, sequence=sequence
    ),
    st.integers(1, 96),
    st.sampled_from([8, 16, 32]),
    st.sampled_from([32, 64, 128]),
    st.integers(100, 200_000),
    st.integers(16, 8192),
)


@given(SHAPES, st.integers(1, 64))
def test_activations_of_a_classic_block_are_korthikantis(shape, micro_batch) -> None:  # type: ignore[no-untyped-def]
    s, b, h, a = shape.sequence, micro_batch, shape.hidden, shape.heads
    expected = s * b * h * (34 + 5 * a * s / h)
    assert float(activations.layer_bytes(shape, micro_batch=b)) == pytest.approx(expected)
    assert float(activations.layer_bytes(shape, micro_batch=b, recompute=activations.FULL)) == pytest.approx(
        2 * s * b * h
    )


@given(SHAPES, st.sampled_from(["ddp", "zero1", "zero2", "zero3"]), st.sampled_from([1, 2, 8, 64]))
def test_sharding_never_adds_memory_and_low_is_below_high(shape, strategy, devices) -> None:  # type: ignore[no-untyped-def]
    model = transformer_model("drawn", shape, "hypothesis")
    memory = make_plan(Request(model, known_device("h100"), devices, strategy=strategy), count_devices=False).memory
    whole = make_plan(Request(model, known_device("h100"), devices), count_devices=False).memory
    low, high = memory.per_device
    assert low is not None and high is not None and low <= high
    for name, value in memory.device_parts.items():
        assert value is not None and value <= (whole.device_parts[name] or 0) * (1 + 1e-9)


def test_recomputation_flash_and_a_smaller_batch_each_save_activations() -> None:
    plain = planned(flash=False, micro_batch=2).memory.activations
    assert plain is not None
    for options in ({"recompute": "selective"}, {"recompute": "full"}):
        assert (planned(flash=False, micro_batch=2, **options).memory.activations or 0) < plain
    assert (planned(flash=True, micro_batch=2).memory.activations or 0) < plain
    assert (planned(flash=False, micro_batch=1).memory.activations or 0) < plain


def test_offloading_moves_states_to_the_host_and_keeps_their_sum() -> None:
    plain, moved = (
        planned(devices=8, strategy="zero3").memory,
        planned(devices=8, strategy="zero3", offload="all").memory,
    )
    states = sum(plain.device_parts[name] or 0 for name in ("parameters", "gradients", "optimizer"))
    assert moved.host == pytest.approx(states)
    assert moved.device_parts["parameters"] == 0


def test_lora_freezes_the_model_and_leaves_gradients_of_its_adapters_only() -> None:
    model = with_lora(known_model("llama2-7b"), 16)
    # 16 x ((h+h) + 2(h+h) + (h+h) + 3(h+ffn)) x layers, h 4096, ffn 11008: 39,976,960 in peft's own print-out
    assert model.trainable_parameters == 39_976_960
    memory = make_plan(Request(model, known_device("rtx-4090"))).memory
    assert memory.gradients == pytest.approx(2 * 39_976_960)
    assert memory.parameters == pytest.approx(2 * (6_738_415_616 + 39_976_960))


def test_activations_that_nobody_knows_are_none_and_never_make_a_plan_fit() -> None:
    memory = planned("sd-unet", "h100").memory
    assert memory.activations is None
    assert memory.per_device == (None, None)
    assert memory.fits == "unsure"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"devices": 7, "tensor": 7}, "7 does not divide the 96 heads"),
        ({"devices": 128, "pipeline": 128}, "128 pipeline stages are more than the 96 layers"),
        ({"devices": 12, "tensor": 8}, "12 devices do not divide"),
        ({"devices": 8, "sequence_parallel": True}, "needs a tensor degree above 1"),
        ({"devices": 8, "pipeline": 2, "strategy": "zero3"}, "not combined with pipeline"),
        ({"strategy": "zero4"}, "the nearest are zero"),
        ({"precision": "bf17"}, "no precision called 'bf17'"),
        ({"optimizer": "adamm"}, "the nearest are adam"),
        ({"devices": 8, "global_batch": 12}, "does not divide into 8 replicas"),
        ({"devices": 0}, "absurd"),
    ],
)
def test_what_can_not_be_is_refused_with_the_reason(options: dict, reason: str) -> None:
    with pytest.raises(ProfError, match=reason):
        planned(**options)


def test_a_published_size_that_the_shape_does_not_give_keeps_its_shares() -> None:
    memory = planned(devices=128, tensor=8, pipeline=16).memory
    parameters = memory.device_parts["parameters"]
    assert parameters is not None
    assert 350e9 / 128 <= parameters < 1.2 * 350e9 / 128, "the first stage holds the embedding too"


def test_experts_are_spread_and_the_rest_is_not() -> None:
    alone, spread = planned("mixtral-8x7b", devices=8).memory, planned("mixtral-8x7b", devices=8, expert=8).memory
    before, after = alone.device_parts["parameters"], spread.device_parts["parameters"]
    assert before is not None and after is not None
    experts = known_model("mixtral-8x7b").shape.expert_parameters_per_layer * 32 * 2  # type: ignore[union-attr]
    assert before - after == pytest.approx(experts * 7 / 8)


def test_experts_are_sharded_over_those_replicas_that_hold_them() -> None:
    model = known_model("mixtral-8x7b")
    states = {}
    for expert in (1, 8):
        parts = planned("mixtral-8x7b", "h100", 64, strategy="zero3", expert=expert).memory.device_parts
        states[expert] = sum(parts[name] or 0.0 for name in ("parameters", "gradients", "optimizer"))
    # 16 bytes for each parameter, spread over 64 devices either way
    assert states[1] == pytest.approx(16 * model.parameters / 64, rel=0.001)
    assert states[8] == pytest.approx(states[1], rel=0.001)


def test_without_sharding_expert_parallelism_leaves_each_device_its_experts() -> None:
    shape = known_model("mixtral-8x7b").shape
    assert shape is not None
    whole, split = (planned("mixtral-8x7b", "h100", 8, expert=expert).memory.device_parts for expert in (1, 8))
    saved = 2 * shape.layers * shape.expert_parameters_per_layer * 7 / 8
    assert (whole["parameters"] or 0) - (split["parameters"] or 0) == pytest.approx(saved, rel=0.001)
