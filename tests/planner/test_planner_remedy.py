"""What makes a plan fit that does not."""

from __future__ import annotations

from typing import Any

import pytest
from plan_requests import planned

from profiler.planner.remedy import HOST_BYTES_PER_DEVICE, Remedy, remedy


def ways(*model: Any, **options: Any) -> Remedy:
    found = remedy(planned(*model, **options))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (("gpt2-xl", "rtx-4090", 1), {"micro_batch": 8}),
        (("llama3-8b", "rtx-4090", 1), {}),
        (("mixtral-8x7b", "h100", 8), {"strategy": "fsdp"}),
        (("resnet50", "t4", 1), {"micro_batch": 512, "precision": "fp32"}),
        (("gpt3-175b", "a100-80gb", 1024), {"strategy": "zero3"}),
    ],
)
def test_what_is_told_surely_fits_on_the_same_devices_with_the_same_batch(
    model: tuple[Any, ...], options: dict[str, Any]
) -> None:
    before, way = planned(*model, **options), ways(*model, **options).cheapest
    assert before.memory.fits != "yes" and way is not None and way.plan.memory.fits == "yes"
    assert way.plan.request.devices == before.request.devices
    assert before.layout is not None and way.plan.layout is not None
    assert way.plan.layout.samples_per_step == before.layout.samples_per_step


def test_a_change_that_alone_suffices_is_not_dressed_up() -> None:
    way = ways("gpt2-large", "rtx-4090", 1, micro_batch=16).cheapest
    assert way is not None and way.change.count("--") == 1


def test_states_are_offloaded_only_as_far_as_a_host_holds_them() -> None:
    found = ways("gpt3-175b", "a100-80gb", 1)
    assert found.cheapest is None, "2.8 TB of states for one card"
    small = ways("gpt2-xl", "rtx-4090", 1, micro_batch=8).cheapest
    assert small is not None and 0 < (small.plan.memory.host or 0) < HOST_BYTES_PER_DEVICE


def test_the_fewest_devices_fit_without_offloading_and_no_fewer_do() -> None:
    found = ways("gpt2-xl", "rtx-4090", 1, micro_batch=8).fewest_devices
    assert found is not None and found.plan.request.devices == 2 and found.plan.memory.host is None
    assert found.plan.memory.fits == "yes"
    big = ways("gpt3-175b", "a100-80gb", 1).fewest_devices
    # 16 bytes for each of 175e9 parameters are 35 cards without a single activation
    assert big is not None and 35 <= big.plan.request.devices <= 64


def test_a_plan_that_fits_needs_no_remedy_and_one_of_unknown_activations_gets_none() -> None:
    assert remedy(planned("gpt2", "h100", 1)) is None
    assert remedy(planned("sd-unet", "t4", 1, precision="fp16-mixed")) is None


def test_fsdp_stays_fsdp() -> None:
    way = ways("mixtral-8x7b", "h100", 8, strategy="fsdp").cheapest
    assert way is not None and "zero3" not in way.change
