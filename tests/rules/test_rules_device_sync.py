"""Rules of copies, of waiting for the device, and of launching, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from device_builder import device, kernel, on_device, sync
from facts_builder import facts, gpu, line, loader

from profiler.analysis.device_facts import CopyFacts
from profiler.analysis.site import Site
from profiler.rules.base import Abstention, Bottleneck, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.device import per_step
from profiler.rules.host.launch_bound import LaunchBound
from profiler.rules.sync.calls import CopyToHost, DataDependentShape, ExplicitSynchronize, Item
from profiler.rules.sync.lines import EmptyCache, PrintTensor
from profiler.rules.transfer.copies import BlockingCopies, NoOverlap, PageableMemory
from profiler.rules.transfer.what import MadeOnCpu, WideDtype

MIB = 2**20
RULES = (
    Item, CopyToHost, DataDependentShape, ExplicitSynchronize, PrintTensor, EmptyCache,
    PageableMemory, BlockingCopies, NoOverlap, MadeOnCpu, WideDtype, LaunchBound,
)  # fmt: skip


def found(rule: Any, its_facts: Any) -> Finding:
    said = rule().check(its_facts)
    assert isinstance(said, Finding), said
    return said


@pytest.mark.parametrize("rule", RULES)
def test_a_training_without_an_accelerator_is_no_matter_of_theirs(rule):
    assert rule().check(facts()) is None


@pytest.mark.parametrize("rule", RULES)
def test_without_the_devices_clock_none_of_them_judges(rule):
    unread = rule().check(on_device(None))
    assert isinstance(unread, Abstention)
    assert "was not recorded" in unread.reason
    assert isinstance(rule().check(on_device(device(steps=()))), Abstention)


@pytest.mark.parametrize("rule", RULES)
def test_a_busy_device_is_let_be(rule):
    assert rule().check(on_device(device())) is None


def test_idle_time_is_what_the_run_leaves_beside_the_devices_work_not_what_the_recording_slowed():
    slowed = device(60.0, {"host": 60.0, "sync": 20.0})  # recorded steps took 140 ms, the run's take 100
    step = per_step(on_device(slowed))
    assert not isinstance(step, str)
    assert step.idle_ms == pytest.approx({"host": 29.0, "sync": 10.0, "data_wait": 1.0})


def test_what_a_slow_host_hid_in_the_recording_is_taken_from_the_run():
    """Waits for batches by the device's clock, and leads lost at lines that wait, as far as the device is idle."""
    waits = (sync("aten::item", 40.0, 5.0),)
    recorded = device(60.0, {"host": 38.0, "sync": 2.0}, syncs=waits, stages_ms={"forward": 5.0})
    its = on_device(recorded, lines={"forward": (line(52, 25.0, "if loss.item() > 9:"),)})
    step = per_step(its)
    assert not isinstance(step, str)
    assert step.idle_ms == pytest.approx({"host": 14.0, "sync": 25.0, "data_wait": 1.0})
    traced = per_step(replace(its, machine=replace(its.machine, device_times=False)))
    assert not isinstance(traced, str)
    assert traced.idle_ms == pytest.approx({"host": 38.0, "sync": 2.0})


def test_a_line_that_waits_promises_its_time_as_far_as_the_device_is_idle():
    waits = (sync("aten::item", 40.0, 5.0),)
    recorded = device(70.0, {"host": 28.0, "sync": 2.0}, syncs=waits, stages_ms={"forward": 5.0})
    its = on_device(recorded, lines={"forward": (line(52, 28.0, "if loss.item() > 9:"),)})
    gain = found(Item, its).gain
    assert (gain.step_ms_low, gain.step_ms_high) == pytest.approx((72.0, 77.6))
    busy = replace(recorded, stages_ms={"forward": 34.0})  # the device works while that line waits
    assert Item().check(on_device(busy, lines={"forward": (line(52, 28.0, "if loss.item() > 9:"),)})) is None


@pytest.mark.parametrize(
    "source",
    [
        'logits = model(batch["input_ids"], attention_mask=batch["attention_mask"])',
        "logits = model(images.float())",
        "hidden = self.layer(hidden).bool()",
        'hidden = batch["mask"]',
    ],
)
def test_a_line_of_the_model_is_no_line_that_waits(source):
    waits = (sync("aten::item", 40.0, 1.0), sync("aten::index", 40.0, 1.0))
    recorded = device(60.0, {"host": 38.0, "sync": 2.0}, syncs=waits, stages_ms={"forward": 5.0})
    its = on_device(recorded, lines={"forward": (line(52, 30.0, source),)})
    step = per_step(its)
    assert not isinstance(step, str)
    assert step.idle_ms["sync"] == pytest.approx(2.0)
    assert Item().check(its) is None
    assert DataDependentShape().check(its) is None


@pytest.mark.parametrize(
    "source",
    [
        "losses[mask].mean()",
        "losses.view(-1)[mask.view(-1)]",
        "x[mask > 0]",
        'x[batch["mask"]]',
        "x[self.mask]",
        "x[:, mask]",
    ],
)
def test_a_mask_in_brackets_is_one_that_waits(source):
    waits = (sync("aten::index", 40.0, 5.0),)
    recorded = device(60.0, {"host": 38.0, "sync": 2.0}, syncs=waits, stages_ms={"forward": 5.0})
    assert found(DataDependentShape, on_device(recorded, lines={"forward": (line(52, 20.0, source),)})).fix.line == 52


def test_a_line_is_folded_only_under_a_cause_at_the_same_line():
    waits = (sync("aten::item", 300.0, 250.0),)
    lines = {"other": (line(52, 30.0, "total += loss.item()"), line(60, 20.0, "update(scores)"))}
    said = judge(on_device(device(40.0, STARVING, syncs=waits, stages_ms={}), lines=lines))
    assert ("host/python-line", 60) in [(it.rule, it.fix.line) for it in said.findings]


# sync

STARVING = {"sync": 30.0, "host": 10.0}  # of 100 ms


@pytest.mark.parametrize(
    ("rule", "operator", "source"),
    [
        (Item, "aten::item", "total += loss.item()"),
        (CopyToHost, "aten::to", "scores = output.cpu()"),
        (DataDependentShape, "aten::index", "loss = losses[mask].mean()"),
        (ExplicitSynchronize, "", "torch.cuda.synchronize()"),
    ],
)
def test_a_wait_in_which_the_device_starves_is_named_at_the_users_line(rule, operator, source):
    its = on_device(
        device(60.0, STARVING, syncs=(sync(operator, 300.0, 250.0),), copies={"d2h": CopyFacts(10, 0.1, 40)}),
        lines={"other": (line(52, 3.0, source),)},
    )
    finding = found(rule, its)
    assert (finding.bottleneck, finding.fix.line) == (Bottleneck.SYNCHRONIZATION, 52)
    assert finding.title.startswith("the device has nothing to do for 30 % of each 100 ms step")
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((70.0, 75.0))
    assert finding.severity is Severity.CRITICAL
    others = {Item, CopyToHost, DataDependentShape, ExplicitSynchronize} - {rule}
    assert all(other().check(its) is None for other in others)


def test_waiting_while_the_device_works_is_no_synchronization_problem():
    """As in the trace of six steps on an A100: 37 ms in aten::item, 75 of 76 blocked ms while the device works."""
    waits = device(83.5, {"host": 14.5, "sync": 2.0}, syncs=(sync("aten::item", 37.0, 0.5), sync("", 38.9, 0.4)))
    assert Item().check(on_device(waits)) is None
    assert ExplicitSynchronize().check(on_device(waits)) is None


def test_a_thinned_recording_tells_nothing_of_starving():
    thin = device(60.0, STARVING, syncs=(sync("aten::item", 300.0, 250.0),), thinned=True)
    assert isinstance(Item().check(on_device(thin)), Abstention)


def test_copies_to_the_device_are_not_called_copies_to_the_host():
    up = device(60.0, STARVING, syncs=(sync("aten::to", 300.0, 250.0, stage="host_to_device"),))
    assert CopyToHost().check(on_device(up)) is None


@pytest.mark.parametrize(
    ("rule", "sampled"),
    [
        (PrintTensor, line(61, 20.0, "print(outputs)", leaf="torch._tensor_str._str_intern")),
        (EmptyCache, line(61, 20.0, "torch.cuda.empty_cache()")),
    ],
)
def test_lines_that_wait_by_what_they_call_cost_no_more_than_the_device_is_idle(rule, sampled):
    its = on_device(device(60.0, STARVING), lines={"other": (sampled,)})
    finding = found(rule, its)
    assert finding.fix.line == 61
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((80.0, 80.6))
    assert rule().check(on_device(device(98.0), lines={"other": (sampled,)})) is None
    assert rule().check(on_device(device(60.0, STARVING), lines={"other": (line(61, 20.0, "work()"),)})) is None


# transfer


def pageable(ms=33.0, busy=70.0, **changes):
    copies = {"h2d_pageable": CopyFacts(20, ms, 1156 * MIB // 10)}
    return device(busy, copies_ms=ms / 10, copies=copies, **changes)


def test_pageable_memory_is_to_be_pinned_where_the_loader_is_made():
    finding = found(PageableMemory, on_device(pageable()))
    assert finding.title == "copies from pageable memory take 3.3 % of each 100 ms step, 11.6 MiB at a time"
    assert (finding.fix.line, finding.severity) == (31, Severity.INFO)
    assert "pin_memory=True" in finding.fix.code
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((96.7, 99.01))
    assert PageableMemory().check(on_device(pageable(ms=9.9))) is None


def test_a_loader_that_pins_is_not_blamed_for_what_is_made_after_it():
    its = on_device(pageable(), loader=loader(pin_memory=True), lines={"host_to_device": (line(44, 1.0, "x.to(d)"),)})
    finding = found(PageableMemory, its)
    assert "made after it" in finding.why
    assert finding.fix.line != 31


def test_copies_of_which_nobody_knows_whether_they_were_pinned_are_not_judged():
    its = on_device(device(70.0, copies={"h2d": CopyFacts(20, 33.0, None)}))
    assert isinstance(PageableMemory().check(its), Abstention)


def test_a_pinned_batch_that_holds_the_host_is_to_be_copied_without_blocking():
    copies = {"h2d_pinned": CopyFacts(20, 60.0, 600 * MIB)}
    calls = (sync("aten::to", 90.0, 70.0, stage="host_to_device"),)
    its = on_device(device(80.0, {"copy": 12.0, "host": 8.0}, copies=copies, syncs=calls))
    finding = found(BlockingCopies, its)
    assert "non_blocking=True" in finding.fix.code
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((93.0, 93.7))
    busy = on_device(device(80.0, copies=copies, syncs=(sync("aten::to", 90.0, 5.0, stage="host_to_device"),)))
    assert BlockingCopies().check(busy) is None


def test_copies_that_nothing_hides_are_to_run_beside_the_step_before():
    copies = {"h2d_pinned": CopyFacts(20, 100.0, 1000 * MIB)}
    alone = on_device(device(90.0, copies=copies, copies_ms=9.0))
    finding = found(NoOverlap, alone)
    assert "copies batches and computes nothing for 9.0 %" in finding.title
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((91.0, 94.6))
    assert NoOverlap().check(on_device(device(90.0, copies=copies, copies_ms=2.0))) is None
    small = {"h2d_pinned": CopyFacts(2000, 100.0, MIB)}
    assert NoOverlap().check(on_device(device(90.0, copies=small, copies_ms=9.0))) is None


def test_pageable_memory_explains_that_copies_do_not_overlap():
    judgement = judge(on_device(pageable(ms=90.0, busy=90.0)))
    assert ("transfer/no-overlap", "transfer/pageable-memory") in [(it.rule, by) for it, by in judgement.folded]


def test_many_small_copies_are_tensors_made_on_the_host():
    copies = {"h2d_pageable": CopyFacts(5000, 20.0, 5000 * 400)}
    made = line(47, 9.0, "mask = torch.zeros(n).to(device)")
    finding = found(MadeOnCpu, on_device(device(70.0, copies=copies), lines={"forward": (made,)}))
    assert finding.title == "500 small copies to the device in each 100 ms step, of 400 B on the mean"
    assert finding.fix.line == 47
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((90.0, 95.0))
    batches = {"h2d_pageable": CopyFacts(5000, 20.0, 5000 * MIB)}
    assert MadeOnCpu().check(on_device(device(70.0, copies=batches))) is None
    few = {"h2d_pageable": CopyFacts(40, 20.0, 4000)}
    assert MadeOnCpu().check(on_device(device(70.0, copies=few))) is None
    unknown = {"h2d": CopyFacts(5000, 20.0, None)}
    assert isinstance(MadeOnCpu().check(on_device(device(70.0, copies=unknown))), Abstention)


def image(from_bytes):
    shown = {"dtype": "float32", "shape": [32, 3, 224, 224], "bytes": 19_267_584, "from_bytes": from_bytes}
    return loader(extra={"tensors": [shown, {"dtype": "int64", "shape": [32], "bytes": 256, "from_bytes": None}]})


def test_floats_that_were_bytes_are_to_be_copied_as_bytes():
    copies = {"h2d_pinned": CopyFacts(20, 120.0, 1000 * MIB)}
    wide = device(90.0, copies=copies, copies_ms=12.0)
    finding = found(WideDtype, on_device(wide, loader=image(True)))
    assert finding.title == "images are copied as float32, 18.4 MiB a batch, where bytes would be 4.6 MiB"
    assert finding.gain.step_ms_low == pytest.approx(91.0, abs=0.01)
    assert WideDtype().check(on_device(wide, loader=image(False))) is None
    assert isinstance(WideDtype().check(on_device(wide)), Abstention)


# host/launch-bound


def test_a_device_that_waits_for_launches_is_told_with_the_hosts_time_for_a_kernel():
    """As in the trace of three steps on an A100: idle for 76 %, 900 kernels a step of 60 µs."""
    starved = device(24.0, {"host": 76.0}, kernels=(kernel("k", "elementwise", 240.0, count=9000),))
    finding = found(LaunchBound, on_device(starved))
    assert finding.title == "the device waits for launches 75 % of each 100 ms step: 900 kernels of 27 µs"
    assert finding.severity is Severity.CRITICAL
    assert finding.gain.step_ms_high / finding.gain.step_ms_low <= 1.5 + 1e-9
    assert judge(on_device(starved)).verdict.bottleneck is Bottleneck.HOST_OVERHEAD


def test_idle_time_with_another_cause_is_not_blamed_on_launching():
    assert LaunchBound().check(on_device(device(60.0, {"data_wait": 35.0, "host": 5.0}))) is None
    assert isinstance(LaunchBound().check(on_device(device(24.0, {"host": 76.0}, thinned=True))), Abstention)
    assert LaunchBound({"idle": 0.5}).check(on_device(device(60.0, {"host": 40.0}))) is None


def test_a_deep_window_counts_though_stages_are_host_times():
    its = on_device(device(60.0, {"host": 40.0}), machine=gpu(device_times=False))
    assert "host/launch-bound" in [finding.rule for finding in judge(its).findings]


def test_a_site_of_the_recording_comes_before_a_sampled_line():
    site = Site("/home/ada/vision/train.py", 77)
    its = on_device(
        device(60.0, STARVING, syncs=(replace(sync("aten::item", 300.0, 250.0), site=site),)),
        lines={"other": (line(52, 3.0, "loss.item()"),)},
    )
    assert found(Item, its).fix.line == 77


def test_under_a_trainer_its_own_argument_leads_the_code():
    its = on_device(device(60.0, {"host": 40.0}), values={"frameworks": ["transformers"]})
    finding = next(it for it in judge(its).findings if it.rule == "host/launch-bound")
    assert finding.fix.code.startswith("# with the Hugging Face Trainer:\nTrainingArguments(torch_compile=True")
    plain = on_device(device(60.0, {"host": 40.0}))
    assert "Trainer" not in next(it for it in judge(plain).findings if it.rule == "host/launch-bound").fix.code
