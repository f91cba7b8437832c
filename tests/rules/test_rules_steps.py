"""The rules of the optimizer, the host, memory, compute and `other`, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import cpu, facts, gpu, line, memory, optimizer, settings, stages, steps

from profiler.analysis.facts import MemorySample
from profiler.rules.base import Abstention, Bottleneck, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.compute.healthy import Healthy
from profiler.rules.host.per_step import Deepcopy, Logging
from profiler.rules.host.python_line import PythonLine
from profiler.rules.memory.growth import Growth
from profiler.rules.optimizer.for_loop import ForLoop
from profiler.rules.other.unnamed import Unnamed

UPDATES = {"data_wait": 0.1, "forward": 3.0, "backward": 5.0, "optimizer": 7.8, "other": 0.1}
BUSY_LOOP = {"data_wait": 1.0, "forward": 10.0, "backward": 20.0, "optimizer": 2.0, "other": 15.0}
GIB = 2**30


def updating(*optimizers, step_ms: float = 7.4):
    parts = {"step": step_ms, "zero_grad": 7.8 - step_ms}
    return facts(UPDATES, stages=stages(UPDATES, optimizer=parts), settings=settings(optimizers=optimizers))


def looping(*lines, stage: str = "other", **changes):
    return facts(BUSY_LOOP, stages=stages(BUSY_LOOP, {stage: lines}), **changes)


# optimizer/for-loop


def test_a_for_loop_adam_is_given_its_fused_implementation():
    finding = ForLoop().check(updating(optimizer("AdamW", tensors=150, parameters=150_000)))
    assert isinstance(finding, Finding)
    assert finding.fix.code.startswith("torch.optim.AdamW(..., fused=True)")
    assert finding.fix.line == 25
    # 20 % to 30 % of 7.4 ms remain of a 16 ms step
    assert finding.gain.step_ms_low == pytest.approx(16 - 0.80 * 7.4)
    assert finding.gain.step_ms_high == pytest.approx(16 - 0.70 * 7.4)


def test_foreach_is_advised_for_small_tensors_only():
    small = ForLoop().check(updating(optimizer("SGD", tensors=400, parameters=400_000)))
    assert isinstance(small, Finding)
    assert "foreach=True" in small.fix.code
    assert ForLoop().check(updating(optimizer("SGD", tensors=20, parameters=20_000_000))) is None
    assert ForLoop().check(updating(optimizer("RMSprop", tensors=20, parameters=20_000_000))) is None


@pytest.mark.parametrize("chosen", [{"fused": True}, {"foreach": True}])
def test_an_optimizer_that_is_fast_already_is_let_be(chosen):
    assert ForLoop().check(updating(optimizer(**chosen))) is None
    assert judge(updating(optimizer(**chosen))).verdict.bottleneck is Bottleneck.COMPUTE


def test_tensors_of_optimizers_made_at_one_line_are_not_added_up_and_of_two_lines_they_are():
    folds = [optimizer(id=number) for number in range(5)]
    finding = ForLoop().check(updating(*folds))
    assert "updating its tensors one by one" in finding.title and "tensors" not in finding.evidence
    other = optimizer(id=9, tensors=100, site=replace(folds[0].site, line=26))
    assert ForLoop().check(updating(folds[0], other)).evidence["tensors"] == 250


def test_a_class_that_is_not_torchs_is_let_be():
    assert ForLoop().check(updating(optimizer("Lion"))) is None


def test_clipping_is_not_taken_for_the_update():
    assert ForLoop().check(updating(optimizer(), step_ms=0.5)) is None


def test_optimizers_that_differ_are_not_judged_together():
    said = ForLoop().check(updating(optimizer("AdamW"), optimizer("RMSprop")))
    assert isinstance(said, Abstention)


def test_an_update_not_timed_by_itself_is_not_judged():
    said = ForLoop().check(facts(UPDATES, settings=settings(optimizers=(optimizer(),))))
    assert isinstance(said, Abstention)


# host/python-line


def test_a_line_that_writes_is_named_with_its_place_and_its_cure():
    (finding,) = Logging().check(looping(line(61, 12.0, "json.dump(state, handle)", "json.encoder.iterencode")))
    assert finding.title == (
        "train.py:61 writes or encodes text and files for 25 % of each 48 ms step: `json.dump(state, handle)`"
    )
    assert finding.fix.line == 61
    assert "    json.dump(state, handle)" in finding.fix.code
    assert finding.gain.step_ms_low < 48 - 12 < finding.gain.step_ms_high


@pytest.mark.parametrize(
    ("source", "leaf", "does", "rule"),
    [
        ("print(f'{loss.item():.3f}')", "", "prints", "host/logging"),
        ("bar.set_postfix(loss=loss.item())", "tqdm.std.refresh", "progress bar", "host/progress-bar"),
        ("log.info('loss %s', loss)", "logging.Handler.emit", "logs", "host/logging"),
        ("writer.add_scalar('loss', loss, step)", "", "logs", "host/logging"),
        ("time.sleep(0.01)", "", "sleeps", "host/python-line"),
        ("shadow.mul_(0.999).add_(weight, alpha=0.001)", "", "averages weights", "host/ema-loop"),
        ("p_ema.lerp_(p, 0.01)", "", "averages weights", "host/ema-loop"),
        ("progress.update(task, advance=1)", "rich.live.Live.refresh", "progress bar", "host/progress-bar"),
        ("ema = copy.deepcopy(model)", "copy._reconstruct", "copies", "host/deepcopy"),
        ("acc = accuracy_score(y, p)", "sklearn.metrics._classification.accuracy_score", "metrics", "host/metrics"),
        ("total += loss.item()", "", "Python numbers", "host/python-line"),
        ("batch = next(stream)", "", "makes the batch", "host/python-line"),
        ("gc.collect()", "", "garbage", "host/python-line"),
        ("for p in params: norm += p", "", "runs Python", "host/python-line"),
    ],
)
def test_what_a_line_does_is_told_from_its_text_or_from_what_ran(source, leaf, does, rule):
    found = [f for f in judge(looping(line(61, 12.0, source, leaf))).findings if f.rule.startswith("host/")]
    assert [finding.rule for finding in found] == [rule]
    assert does in found[0].title


def test_a_part_of_a_statement_is_no_code_to_paste():
    whole, part = (
        next(f for f in judge(looping(line(61, 12.0, source))).findings if f.rule == "host/python-line").fix.code
        for source in ("update(scores)", "float(np.percentile(scores, 95)),  # of a dict")
    )
    assert whole.endswith("\n    update(scores)")
    assert part.endswith("\n    ...  # the statement that this line is part of")


def test_a_trainers_own_argument_comes_before_the_line():
    said = looping(line(61, 12.0, "self.log('loss', loss)", "wandb.sdk.wandb_run.log"))
    given = replace(said.settings, values={"frameworks": ["lightning"]})
    (finding,) = Logging().check(replace(said, settings=given))
    assert finding.fix.code.startswith("# with Lightning:\nTrainer(log_every_n_steps=50)\n")
    assert "if step % 50 == 0:" in finding.fix.code
    (finding,) = Logging().check(said)
    assert "Lightning" not in finding.fix.code


def test_a_batch_made_by_hand_is_a_matter_of_data():
    judgement = judge(looping(line(21, 12.0, "x = torch.stack([data[i] for i in ix])", function="get_batch")))
    assert judgement.verdict.bottleneck is Bottleneck.DATA_PREPROCESSING
    assert judgement.verdict.rule == "host/python-line"


def test_the_line_that_calls_a_packages_loop_is_not_blamed_for_it():
    called = line(11, 12.0, "Trainer(model, args).train()", "accelerate.utils.operations.send_to_device")
    said = looping(called)
    (finding,) = PythonLine().check(said)
    assert finding.fix.line == 11
    stages = {
        name: replace(it, lines=(line(11, it.mean_ms, "Trainer(model, args).train()"),))
        if name in ("forward", "backward")
        else it
        for name, it in said.stages.items()
    }
    assert not isinstance(PythonLine().check(replace(said, stages=stages)), list)


@pytest.mark.parametrize(("leaf", "named"), [("torch.nn.functional.gelu", False), ("wandb.sdk.wandb_run.log", True)])
def test_a_line_that_prints_what_a_training_returned_is_not_said_to_print_for_as_long(leaf, named):
    said = looping(line(11, 15.0, "print(trainer.train())", leaf))
    beneath = {
        name: replace(it, lines=(line(11, it.mean_ms, "print(trainer.train())", leaf),)) if name != "other" else it
        for name, it in said.stages.items()
    }
    assert isinstance(Logging().check(replace(said, stages=beneath)), list) is named


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ("out[i] = (row - row.mean()) / (row.std() + 1e-6)", True),
        ("return [clean(text) for text in texts]", True),
        ("history.append(summary(step))", False),
        ("for row in rows:", False),
    ],
)
def test_what_each_step_needs_is_not_to_be_done_in_every_50th(source, needed):
    (finding,) = PythonLine().check(looping(line(48, 12.0, source)))
    assert ("whole batch at once" in finding.fix.summary) is needed
    assert ("step % 50" in finding.fix.code) is not needed


def test_the_models_arithmetic_in_forward_is_not_called_host_overhead():
    layer = line(12, 9.0, "x = F.relu(self.conv(x))", "torch.nn.functional.relu")
    assert not isinstance(PythonLine().check(looping(layer, stage="forward")), list)
    (finding,) = Logging().check(looping(line(48, 8.0, "print(loss)"), stage="forward"))
    assert "train.py:48" in finding.title


def test_a_functional_model_in_other_is_not_blamed():
    times = {"backward": 20.0, "optimizer": 2.0, "other": 15.0}
    functional = facts(times, stages=stages(times, {"other": (line(40, 12.0, "h = x @ w1"),)}))
    said = PythonLine().check(functional)
    assert isinstance(said, Abstention)
    assert "forward" in said.reason
    assert judge(functional).verdict.bottleneck is not Bottleneck.HOST_OVERHEAD


def test_the_lines_of_one_function_count_together():
    many = [line(80 + n, 1.0, f"m{n} = average(m{n})", function="track", samples=20) for n in range(10)]
    (finding,) = PythonLine().check(looping(*many))
    assert finding.evidence["line_ms"] == pytest.approx(10.0)
    assert "track()" in finding.why


def test_a_line_seen_too_rarely_is_not_named():
    assert isinstance(Logging().check(looping(line(61, 12.0, "print(x)", samples=3))), Abstention)
    assert isinstance(PythonLine().check(looping(line(61, 12.0, "track(x)", samples=3))), Abstention)


def test_a_comment_does_not_tell_what_a_line_does():
    (finding,) = PythonLine().check(looping(line(61, 12.0, "track(x)  # print(x) was slower")))
    assert "prints" not in finding.title


def test_two_costly_lines_are_two_findings_and_one_comment_silences_one_of_them():
    both = looping(line(61, 8.0, "print(loss)"), line(62, 5.0, "log.info(loss)"))
    comments = {62: "log.info(loss)  # prof: ignore[host/logging]"}
    judgement = judge(both, read_line=lambda file, at: comments.get(at, ""))
    assert [finding.fix.line for finding in judgement.findings] == [61]
    assert [finding.fix.line for finding in judgement.silenced] == [62]


# memory/growth


def test_growth_says_what_it_will_reach_and_when_memory_ends():
    finding = Growth().check(facts(memory=memory(2 * 2**20, 1000 * 2**20)))
    assert finding.title == "the process grows by 2.0 MiB a step, which makes 2.0 GiB in 1,000 steps"
    # 16 GiB less 1800 MiB in use, by 2 MiB a step
    assert finding.evidence["steps_left"] == pytest.approx((16 * 1024 - 1800) / 2)
    assert finding.severity is Severity.WARNING


def test_memory_about_to_run_out_comes_before_everything():
    slow = looping(line(61, 12.0, "print(loss)"), memory=memory(20 * 2**20, 10 * GIB))
    judgement = judge(slow)
    assert judgement.findings[0].rule == "memory/growth"
    assert judgement.verdict.bottleneck is Bottleneck.MEMORY
    assert judgement.verdict.severity is Severity.CRITICAL


def test_growth_that_levels_off_is_a_cache_that_filled_up():
    sizes = [800 + min(300, 60 * n) for n in range(30)]
    levelled = memory(
        2**20, 300 * 2**20, timeline=tuple(MemorySample(float(n), s * 2**20) for n, s in enumerate(sizes))
    )
    assert isinstance(Growth().check(facts(memory=levelled)), Abstention)


def test_growth_counts_the_steps_in_which_nothing_of_ours_ran():
    finding = Growth().check(facts(memory=memory(2 * 2**20, 300 * 2**20, growth_steps=150)))
    assert "Over 150 steps the process grew by 300 MiB" in finding.why
    said = Growth().check(facts(memory=memory(2 * 2**20, 60 * 2**20, growth_steps=30)))
    assert isinstance(said, Abstention) and "30 steps are too few" in said.reason


def test_growth_of_the_device_is_judged_by_the_devices_capacity():
    samples = tuple(MemorySample(float(n), 800 * 2**20, 10 * GIB + n * 2**30 // 3) for n in range(30))
    its = memory(
        20 * 2**20,
        29 * GIB // 3,
        timeline=samples,
        growth_on_device=True,
        peak_device_bytes=20 * GIB,
        device_capacity_bytes=80 * GIB,
    )
    finding = Growth().check(facts(memory=its, machine=gpu(device_times=True)))
    assert "device" in finding.title
    assert finding.evidence["steps_left"] == pytest.approx(60 * 1024 / 20)


def test_flat_memory_is_silent():
    assert Growth().check(facts()) is None
    assert Growth().check(facts(memory=memory(1000.0, 2**20))) is None


# compute/healthy, other/unnamed


def test_a_healthy_training_is_compute_and_nothing_warns():
    judgement = judge(facts())
    assert judgement.verdict.bottleneck is Bottleneck.COMPUTE
    assert judgement.verdict.rule == "compute/healthy"
    assert judgement.verdict.severity is Severity.INFO
    assert judgement.verdict.summary == "Compute: the model's own arithmetic takes 97 % of each 100 ms step."
    assert [finding.rule for finding in judgement.findings] == ["compute/healthy"]
    assert judgement.failures == ()


def test_healthy_gives_way_to_a_warning():
    judgement = judge(looping(line(61, 12.0, "print(loss)")))
    assert ("compute/healthy", "host/logging") in [(f.rule, by) for f, by in judgement.folded]


def test_a_step_that_is_not_arithmetic_is_not_called_healthy():
    assert Healthy().check(facts({"data_wait": 60.0, "forward": 15.0, "backward": 25.0})) is None


def test_an_update_longer_than_the_model_is_not_healthy_compute():
    judgement = judge(updating(optimizer(fused=True)))
    assert judgement.verdict.bottleneck is Bottleneck.COMPUTE  # forward and backward are still half of the step
    longer = {"forward": 3.0, "backward": 5.0, "optimizer": 40.0}
    verdict = judge(facts(longer)).verdict
    assert (verdict.bottleneck, verdict.severity) == (Bottleneck.OPTIMIZER, Severity.INFO)


def test_time_that_no_line_explains_is_other():
    times = {"forward": 5.0, "backward": 10.0, "other": 30.0}
    unnamed = facts(times, stages=stages(times, {"other": (line(61, 1.0), line(63, 0.5))}))
    judgement = judge(unnamed)
    assert judgement.verdict.bottleneck is Bottleneck.OTHER
    assert judgement.verdict.rule == "other/unnamed"
    assert "train.py:61" in judgement.findings[0].why


def test_named_lines_leave_nothing_unnamed():
    assert Unnamed().check(looping(line(61, 12.0, "print(loss)"))) is None


def test_a_trifle_is_no_finding_on_a_noisy_run():
    noisy = replace(steps(48.0), noise_ms=13.0)
    assert not Logging().check(looping(line(61, 12.0, "print(loss)"), steps=noisy))


@pytest.mark.parametrize("machine", [cpu(), cpu(None)])
def test_a_healthy_run_stays_so_whatever_was_not_measured(machine):
    assert judge(facts(machine=machine)).verdict.bottleneck is Bottleneck.COMPUTE


def test_what_comes_after_a_costly_line_gains_too():
    (finding,) = PythonLine().check(looping(line(61, 15.0, "gc.collect()")))
    least_ms = 0.9 * 15.0 * (1 - 0.03)  # all of the stage was seen there
    most_ms = 15.0 + 0.25 * 15.0
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((48.0 - most_ms, 48.0 - least_ms))


def test_a_copied_model_leaves_the_time_that_its_bytes_take():
    copies = looping(line(61, 15.0, "last = copy.deepcopy(model)"))
    [root, *_] = copies.settings.roots
    held = replace(copies.settings, roots=(replace(root, parameter_bytes=3_000_000),))
    (finding,) = Deepcopy().check(replace(copies, settings=held))
    assert 48.0 - finding.gain.step_ms_high == pytest.approx((15.0 - 3.0) * 0.97)  # at 1 GB/s
    (finding,) = Deepcopy().check(replace(copies, settings=replace(copies.settings, roots=())))
    assert 48.0 - finding.gain.step_ms_high == pytest.approx(0.75 * 15.0 * 0.97)
