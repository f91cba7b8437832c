"""Calibration: what a measured run says about other batches, ranks, workers and data sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from summaries import run_folder, summary

from profiler.errors import ProfError
from profiler.planner.calibration import Calibration, predict, read_runs
from profiler.planner.options import Options, request_of
from profiler.planner.plan import Plan, make_plan


def calibrated(tmp_path: Path, *runs: dict[str, Any], **options: Any) -> Plan:
    folders = tuple(run_folder(tmp_path / f"run-{index}", run) for index, run in enumerate(runs))
    return make_plan(request_of(Options(runs=folders, **options), tmp_path))


def test_the_plan_of_the_run_itself_is_the_measured_step(tmp_path: Path) -> None:
    plan = calibrated(tmp_path, summary())
    assert plan.time.step_s == pytest.approx(0.070)
    assert plan.time.units_per_s == pytest.approx(64 / 0.070)
    low, high = plan.time.step_range_s or (0, 0)
    assert low < 0.070 < high


def test_measured_categories_are_the_plans(tmp_path: Path) -> None:
    memory = calibrated(tmp_path, summary()).memory
    assert (memory.parameters, memory.gradients, memory.optimizer) == (4e6, 4e6, 8e6)
    assert memory.activations == 64e6


def test_twice_the_batch_doubles_what_grows_with_it_and_nothing_else(tmp_path: Path) -> None:
    plan = calibrated(tmp_path, summary(), micro_batch=128)
    assert plan.time.step_s == pytest.approx(0.120 + 0.008 + 0.002)
    assert plan.memory.activations == 128e6
    assert plan.memory.optimizer == 8e6


def test_two_runs_tell_the_part_that_does_not_grow(tmp_path: Path) -> None:
    # 10 ms fixed and 1 ms a sample: 64 → 74, 128 → 138
    runs = [summary(batch=64, forward_ms=34, backward_ms=40), summary(batch=128, forward_ms=64, backward_ms=74)]
    plan = calibrated(tmp_path, *runs, micro_batch=256)
    assert plan.time.step_s == pytest.approx((10 + 256 + 8 + 2) / 1e3)


def test_the_interval_widens_as_the_plan_leaves_what_was_measured(tmp_path: Path) -> None:
    calibration = read_runs([run_folder(tmp_path / "run", summary())])

    def width(samples: float, ranks: int = 1) -> float:
        step = predict(calibration, samples=samples, ranks=ranks, workers=None, model=None)
        return (step.high_s - step.low_s) / step.step_s

    assert width(64) < width(128) < width(1024)
    assert width(64) < width(64, ranks=8)


def test_data_set_and_epochs_give_days_and_device_hours(tmp_path: Path) -> None:
    plan = calibrated(tmp_path, summary(), gpus=64, dataset_size="1.2e9", epochs=2.0, price=2.0)
    assert plan.time.steps == pytest.approx(2 * 1.2e9 / (64 * 64))
    assert plan.time.step_s is not None and plan.time.seconds == pytest.approx(plan.time.step_s * plan.time.steps)
    assert plan.time.device_hours == pytest.approx(plan.time.seconds / 3600 * 64)
    assert plan.cost.usd == pytest.approx(plan.time.device_hours * 2)
    assert plan.time.terms_s["communication"] > 0


def test_a_loader_that_lags_is_the_floor_and_more_workers_lower_it(tmp_path: Path) -> None:
    # 4 workers need 400 ms a batch: one every 100 ms, of which 30 are waited for
    slow = summary(wait_ms=30.0, workers=4, batch_ms=400.0)
    same, more = calibrated(tmp_path, slow), calibrated(tmp_path, slow, workers=8)
    assert same.time.bound_by == "data-loading"
    assert same.time.step_s == pytest.approx(0.100)
    assert more.time.step_s == pytest.approx(0.070)
    assert more.time.bound_by == "compute"


def test_loading_in_the_training_thread_adds_to_the_step_and_a_worker_takes_it_away(tmp_path: Path) -> None:
    own = summary(wait_ms=50.0, workers=0, batch_ms=50.0)
    assert calibrated(tmp_path, own).time.step_s == pytest.approx(0.120)
    assert calibrated(tmp_path, own, workers=1).time.step_s == pytest.approx(0.070)


def test_exposed_communication_scales_by_the_ring(tmp_path: Path) -> None:
    run = summary(communication_ms=10.0, ranks=2)
    plan = calibrated(tmp_path, run, gpus=8)
    # 2(n−1)/n: 1 at 2 ranks, 1.75 at 8
    assert plan.time.terms_s["communication"] == pytest.approx(0.0175)


def test_another_device_is_scaled_by_its_peak_with_much_doubt(tmp_path: Path) -> None:
    same, other = calibrated(tmp_path, summary()), calibrated(tmp_path, summary(), gpu="h100", precision="bf16-mixed")
    assert same.time.step_s is not None and other.time.step_s is not None
    assert other.time.terms_s["compute"] < 0.4 * same.time.terms_s["compute"]
    low, high = other.time.step_range_s or (0, 0)
    assert (high - low) / other.time.step_s > 0.8


def test_the_device_of_the_run_is_found_in_the_catalogue(tmp_path: Path) -> None:
    assert calibrated(tmp_path, summary(device="NVIDIA A100-SXM4-80GB")).request.device.key == "a100-80gb"
    assert calibrated(tmp_path, summary(device="NVIDIA H100 80GB HBM3")).request.device.key == "h100"
    assert calibrated(tmp_path, summary(device="NVIDIA GeForce RTX 4090")).request.device.key == "rtx-4090"


def test_another_model_scales_by_its_counted_work(tmp_path: Path) -> None:
    script = Path(__file__).parent / "scripts" / "gpt.py"
    run = summary(device="cpu", batch=8, command=("python", str(script), "--depth", "2"))
    folder = run_folder(tmp_path / "run", run)
    plan = make_plan(
        request_of(Options(runs=(folder,), script=(str(script), "--depth", "4"), precision="fp32"), tmp_path)
    )
    tokens, width = 64, 64
    layer, ends = 2 * 12 * width**2 * tokens + 4 * tokens**2 * width, 2 * 512 * width * tokens
    assert plan.time.terms_s["compute"] == pytest.approx(
        0.060 * (4 * layer + ends) / (2 * layer + ends) + 0.002, rel=0.01
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steps": None}, "holds no measured steps"),
        ({"schema_version": 2}, "not a summary of schema 1"),
        ({"settings": {}}, "shows no batch size"),
    ],
)
def test_a_run_that_can_not_calibrate_says_why(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProfError, match=reason):
        calibrated(tmp_path, summary() | change)


def test_a_folder_that_is_no_run_and_a_damaged_summary_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProfError, match="can't be read"):
        read_runs([tmp_path / "nothing"])
    folder = run_folder(tmp_path / "run", {})
    (folder / "summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(ProfError, match="is damaged"):
        read_runs([folder])


def test_a_run_without_a_loader_takes_its_batch_from_the_plan(tmp_path: Path) -> None:
    plan = calibrated(tmp_path, summary(batch=None), micro_batch=32)
    assert plan.time.step_s == pytest.approx(0.070)


def test_a_run_without_a_loader_has_the_batch_that_its_model_was_given(tmp_path: Path) -> None:
    seen = summary(batch=None)
    seen["memory"]["samples_in_step"] = 16
    plan = calibrated(tmp_path, seen, micro_batch=32, global_batch=32)
    assert plan.time.step_s == pytest.approx(0.130)  # forward and backward twice, the rest as it was


def test_two_runs_on_an_h200_predict_a_third(tmp_path: Path) -> None:
    """A GPT of 219 M parameters in a loop without a loader: milliseconds by stage at 8, 16 and 32 sequences."""
    seen = {8: (9.44, 20.34, 1.81, 5_660_418_180), 16: (17.34, 37.12, 1.67, 10_951_729_220)}
    folders = []
    for batch, (forward, backward, optimizer, activations) in seen.items():
        run = summary(
            batch=None, forward_ms=forward, backward_ms=backward, optimizer_ms=optimizer, other_ms=0.01,
            device="NVIDIA H200", activations=activations,
        )  # fmt: skip
        run["memory"]["samples_in_step"] = batch
        folders.append(run_folder(tmp_path / str(batch), run))
    plan = make_plan(request_of(Options(runs=tuple(folders), micro_batch=32), tmp_path))
    assert plan.time.step_s == pytest.approx(0.1053, rel=0.05)
    assert plan.memory.activations == pytest.approx(21_534_351_300, rel=0.01)


def test_calibration_survives_a_round_trip_of_its_summary(tmp_path: Path) -> None:
    value = summary()
    first, second = (
        read_runs([run_folder(tmp_path / name, json.loads(json.dumps(value)))]) for name in ("same", "again")
    )
    assert replace(first.base, name="x") == replace(second.base, name="x")
    assert isinstance(first, Calibration)


def test_a_run_that_shows_its_link_scales_latency_by_hops_and_bytes_by_the_ring(tmp_path: Path) -> None:
    run = summary(communication_ms=10.0, ranks=2)
    gradients = run["settings"]["roots"][0]["trainable_parameters"] * 4.0

    def at_eight(latency_ms: float, gigabytes_per_s: float) -> float:
        link = {"kind": "all_reduce", "latency_ms": latency_ms, "gigabytes_per_s": gigabytes_per_s}
        known = {**run, "ranks": {"links": [link], "reduction": {"bucket_bytes": [1, 1]}, "collectives": []}}
        calibration = read_runs([run_folder(tmp_path / "run", known)])
        predicted = predict(calibration, samples=64, ranks=8, workers=None, model=None)
        return predicted.communication_s * 1e3

    assert at_eight(1e-9, 1.0) == pytest.approx(17.5)  # all bytes
    assert at_eight(1.0, 1e9) == pytest.approx(70.0)  # all latency: seven hops for one
    even = gradients / 1e6 / 2.0  # ms that the bytes take at 1 GB/s, of which each of two messages has half
    assert at_eight(even, 1.0) == pytest.approx((70.0 + 17.5) / 2)


BF16 = {"autocast": {"device": "cuda", "dtype": "bfloat16", "enabled": True}}
FP16 = {"autocast": {"device": "cuda", "dtype": "float16", "enabled": True}}


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({}, "fp32"),
        ({"values": BF16}, "bf16-autocast"),
        ({"values": FP16}, "fp16-autocast"),
        ({"values": {"autocast": {"dtype": "bfloat16", "enabled": False}}}, "fp32"),
        ({"dtype": "bfloat16"}, "bf16"),
        ({"values": {"tf32_matmul": True}}, "tf32"),
        ({"values": {"matmul_precision": "high"}}, "tf32"),
        ({"values": {"tf32_matmul": True}, "device": "cpu"}, "fp32"),
    ],
)
def test_the_plan_has_the_precision_that_the_runs_settings_show(
    tmp_path: Path, options: dict[str, Any], precision: str
) -> None:
    plan = calibrated(tmp_path, summary(**options))
    assert plan.request.precision == precision
    assert plan.time.step_s == pytest.approx(0.070)
    assert plan.memory.activations == 64e6, "measured, whatever the precision"


def test_autocast_keeps_weights_gradients_and_states_in_float32(tmp_path: Path) -> None:
    memory = calibrated(tmp_path, summary(values=BF16)).memory
    assert (memory.parameters, memory.gradients, memory.optimizer) == (4e6, 4e6, 8e6)


def test_another_precision_gains_something_between_nothing_and_the_ratio_of_the_peaks(tmp_path: Path) -> None:
    plan = calibrated(tmp_path, summary(), precision="bf16-autocast")
    ratio = 312 / 19.5
    low, high = plan.time.step_range_s or (0, 0)
    assert plan.time.step_s == pytest.approx(0.060 / ratio**0.5 + 0.010)
    assert low < 0.060 / ratio + 0.010 and high > 0.070
    assert plan.memory.activations == 32e6


def test_runs_of_two_precisions_do_not_calibrate_together(tmp_path: Path) -> None:
    with pytest.raises(ProfError, match="runs of one precision"):
        calibrated(tmp_path, summary(), summary(batch=128, values=BF16))


def test_a_step_of_several_micro_batches_is_planned_as_it_was_made(tmp_path: Path) -> None:
    plan = calibrated(tmp_path, summary(batch=16, micro_batches=4))
    assert plan.layout is not None
    assert (plan.layout.micro_batch, plan.layout.micro_batches, plan.layout.samples_per_step) == (16, 4, 64)
    assert plan.time.step_s == pytest.approx(0.070)
    assert plan.time.units_per_s == pytest.approx(64 / 0.070)
    assert plan.memory.activations == 64e6, "of one micro-batch, which is what was kept at a time"


def test_the_batch_of_a_loop_without_a_loader_is_cut_by_its_micro_batches(tmp_path: Path) -> None:
    seen = summary(batch=None, micro_batches=4)
    seen["memory"]["samples_in_step"] = 64
    plan = calibrated(tmp_path, seen)
    assert plan.layout is not None and (plan.layout.micro_batch, plan.layout.micro_batches) == (16, 4)
    assert plan.memory.activations == 64e6


def test_more_micro_batches_repeat_the_passes_and_not_the_update(tmp_path: Path) -> None:
    run = summary(batch=16, micro_batches=4)
    plan = calibrated(tmp_path, run, global_batch=128, micro_batch=16)
    assert plan.time.step_s == pytest.approx(2 * 0.060 + 0.008 + 2 * 0.002)
    assert plan.memory.activations == 64e6
    whole = calibrated(tmp_path, run, global_batch=64, micro_batch=64)
    assert whole.time.step_s == pytest.approx(0.060 + 0.008 + 0.002 / 4)
    assert whole.memory.activations == 4 * 64e6


def test_two_runs_tell_what_each_pass_costs_whatever_its_samples(tmp_path: Path) -> None:
    # 5 ms a pass and 1 ms a sample: 4 passes of 16 → 84, one of 64 → 69
    runs = [
        summary(batch=16, micro_batches=4, forward_ms=40, backward_ms=44),
        summary(batch=64, forward_ms=30, backward_ms=39),
    ]
    plan = calibrated(tmp_path, *runs, micro_batch=32, global_batch=64)
    assert plan.time.terms_s["compute"] == pytest.approx((2 * 5 + 64 + 2) / 1e3)


def test_each_of_many_ranks_accumulates_as_the_measured_one_did(tmp_path: Path) -> None:
    plan = calibrated(tmp_path, summary(batch=16, micro_batches=4), gpus=8)
    assert plan.layout is not None
    assert (plan.layout.micro_batches, plan.layout.samples_per_step) == (4, 8 * 64)
