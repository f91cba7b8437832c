"""Facts of runs whose truth is known, since they were written by hand on a fake clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tape_builder import MS, PLAIN_STEP_NS, SECOND, START_NS, TRAIN, US, Tape, Training, write_run, write_segment

from profiler.analysis.build import read_facts
from profiler.errors import ProfError
from profiler.record import layout
from profiler.record.vocabulary import Checkpoint, DataWait, Flag, Forward, Instrument, Name, Optimizer

CPU = {"kind": "device", "name": "cpu", "asynchronous": False, "capacity_bytes": None, "device_times": False}
LOADER = {
    "kind": "loader",
    "id": 1,
    "dataset": "Birds",
    "batch_size": 32,
    "num_workers": 2,
    "pin_memory": False,
    "prefetch_factor": 2,
    "persistent_workers": False,
    "iterable": False,
    "shuffle": True,
    "length": 640,
    "context": "fork",
    "file": "/home/ada/train.py",
    "line": 12,
    "extra": {"drop_last": False},
}


def plain_run(run: Path, steps: int = 100, notes: list[dict[str, Any]] | None = None, **more: Any) -> Training:
    tape = Training()
    tape.wait(500 * MS)
    tape.iterator()
    for _ in range(steps):
        tape.step()
    tape.mark(Name.ENDED)
    write_run(run, [tape], [CPU, LOADER, *(notes or [])], **more)
    return tape


def test_a_plain_run_has_its_stages_exactly(tmp_path: Path) -> None:
    plain_run(tmp_path / "birds")
    facts = read_facts(tmp_path / "birds")
    assert facts.run.name == "birds"
    assert facts.run.ended
    assert (facts.run.torch, facts.run.python, facts.run.ranks) == ("2.13.0", "3.11.9", 1)
    steps = facts.steps
    assert steps is not None
    assert (steps.count, steps.warmup, steps.measured) == (100, 1, 99)
    assert steps.median_ms == pytest.approx(PLAIN_STEP_NS / MS)
    assert (steps.micro_batches, steps.batches, steps.explicit) == (1.0, 1.0, False)
    assert (steps.drift_share, steps.outliers, steps.outlier_share) == (None, (), 0.0)
    assert list(facts.stages) == [
        "data_wait",
        "host_to_device",
        "forward",
        "backward",
        "optimizer",
        "communication",
        "other",
    ]
    assert facts.stage_ms("data_wait") == pytest.approx(0.2)
    assert facts.stage_ms("host_to_device") == 0.0
    assert facts.stages["forward"].parts_ms == pytest.approx({"module": 0.3, "loss": 0.06})
    assert facts.stages["optimizer"].parts_ms == pytest.approx({"step": 0.1, "zero_grad": 0.01})
    assert facts.stages["optimizer"].calls_per_step == 2.0
    assert sum(stage.mean_ms for stage in facts.stages.values()) == pytest.approx(steps.mean_ms, rel=1e-12)
    assert sum(stage.share for stage in facts.stages.values()) == pytest.approx(1.0, rel=1e-12)
    assert facts.histogram is not None
    assert sum(facts.histogram.counts) == 99
    assert facts.settings.training_loader is not None
    assert facts.settings.training_loader.site is not None
    assert facts.settings.training_loader.site.line == 12
    assert facts.notices == ()


def test_startup_reaches_from_the_process_to_its_first_step(tmp_path: Path) -> None:
    plain_run(tmp_path / "run")
    startup = next(span for span in read_facts(tmp_path / "run").spans if span.name == "startup")
    assert startup.total_s == pytest.approx(2.5)  # two seconds before the tape began, half a second on it
    assert startup.intervals_s == ((0.0, pytest.approx(2.5)),)


def test_spans_have_their_number_length_and_line(tmp_path: Path) -> None:
    tape = Training()
    for number in range(40):
        tape.step()
        if number % 10 == 9:
            tape.call(Name.CHECKPOINT, (number + 1) * MS, Checkpoint.SAVE)
            tape.batch(loader=2)
            tape.forward(4 * MS, flags=0)
            tape.exhausted(loader=2)
    call = {"kind": "call", "stage": "checkpoint", "detail": 1, "file": "/a.py", "line": 9, "function": "save"}
    write_run(tmp_path / "run", [tape], [CPU, call])
    facts = read_facts(tmp_path / "run")
    spans = {span.name: span for span in facts.spans}
    assert spans["checkpoint"].count == spans["evaluation"].count == 4
    assert spans["checkpoint"].total_s == pytest.approx(0.1)
    assert spans["checkpoint"].longest_s == pytest.approx(0.04)
    assert str(spans["checkpoint"].site) == "/a.py:9"
    assert spans["evaluation"].total_s == pytest.approx(4 * (4.25 * MS) / SECOND)
    assert facts.steps is not None
    assert facts.steps.count == 40


def test_what_was_not_there_is_not_measured_and_says_why(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(20):
        tape.forward()
        tape.backward()
        tape.update()
    unobserved = {"kind": "unobserved", "what": "gpu", "why": "no NVIDIA driver was found"}
    write_run(tmp_path / "run", [tape], [unobserved], process={"world_size": "4"})
    facts = read_facts(tmp_path / "run")
    assert "data_wait" not in facts.stages
    assert facts.not_measured["data_wait"] == "no DataLoader fed the training loop"
    assert facts.not_measured["workers"] == "no DataLoader fed the training loop"
    # the device is not known and there are four ranks: neither is a zero then
    assert {"host_to_device", "communication"} <= set(facts.not_measured)
    assert facts.not_measured["gpu"] == "no NVIDIA driver was found"
    assert {"memory", "lines", "operators", "idle cores", "device"} <= set(facts.not_measured)
    assert facts.workers is None
    assert facts.machine.idle_cores is None
    assert facts.overhead.us_per_step is None


def worker_batch(worker: Tape, wall: int, cpu: int, delay: int, collate: int) -> None:
    worker.push(Name.FETCH, obj=1)
    worker.wait(wall)
    worker.push(Name.COLLATE, obj=1)
    worker.value(Name.CPU_NS, cpu)
    worker.value(Name.RUN_DELAY_NS, delay)
    worker.wait(collate)
    worker.pop(Name.COLLATE, obj=1)
    worker.value(Name.CPU_NS, collate)
    worker.value(Name.RUN_DELAY_NS, 1 * US)
    worker.pop(Name.FETCH, obj=1)
    worker.value(Name.READ_BYTES, 4096)
    worker.value(Name.READ_CHARS, 9000)
    worker.value(Name.ITEMS, 32)


def test_workers_time_is_split_into_waiting_computing_and_collating(tmp_path: Path) -> None:
    tape = Training()
    workers = [Tape(f"worker-{pid}", start_ns=START_NS) for pid in (71, 72)]
    for worker in workers:
        for _ in range(50):
            worker_batch(worker, wall=1000 * US, cpu=600 * US, delay=50 * US, collate=200 * US)
    for _ in range(60):
        tape.step()
    write_run(tmp_path / "run", [tape, *workers], [CPU, LOADER])
    facts = read_facts(tmp_path / "run").workers
    assert facts is not None
    assert facts.processes == 2
    assert facts.load_ms == pytest.approx(0.35)
    assert facts.preprocess_ms == pytest.approx(0.6)
    assert facts.collate_ms == pytest.approx(0.2)
    assert facts.run_delay_ms == pytest.approx(0.051)
    assert facts.batch_ms == pytest.approx(1.2)
    assert (facts.read_bytes, facts.items) == (4096, 32)
    # every 1.19 ms one batch of 1.2 ms, made by two
    assert facts.busy_share == pytest.approx(1.2 / 1.19 / 2, rel=0.01)


def test_a_fetch_without_collate_is_split_as_a_whole(tmp_path: Path) -> None:
    tape = Training()
    worker = Tape("worker-4242", clock=tape)
    for _ in range(30):
        with tape.open(Name.DATA_WAIT, DataWait.NEXT, 1):
            worker.push(Name.FETCH, obj=1)
            tape.wait(800 * US)
            worker.pop(Name.FETCH, obj=1)
            worker.value(Name.CPU_NS, 700 * US)
            worker.value(Name.RUN_DELAY_NS, 0)
            worker.value(Name.ITEMS, 8)
        tape.forward()
        tape.backward()
        tape.update()
    write_run(tmp_path / "run", [tape, worker], [CPU, {**LOADER, "num_workers": 0}])
    facts = read_facts(tmp_path / "run").workers
    assert facts is not None
    assert facts.processes == 0
    assert facts.load_ms == pytest.approx(0.1)
    assert facts.preprocess_ms == pytest.approx(0.7)
    assert facts.collate_ms == 0.0
    assert facts.read_bytes is None


def test_batches_of_an_evaluation_loader_do_not_count(tmp_path: Path) -> None:
    tape = Training()
    worker = Tape("worker-71", clock=tape)
    for number in range(40):
        tape.step()
        if number % 10 == 9:
            worker.push(Name.FETCH, obj=2)
            tape.batch(90 * MS, loader=2)
            worker.pop(Name.FETCH, obj=2)
            worker.value(Name.CPU_NS, 5)
            tape.forward(flags=0)
    write_run(tmp_path / "run", [tape, worker], [CPU, LOADER])
    facts = read_facts(tmp_path / "run")
    assert facts.workers is None
    assert facts.not_measured["workers"] == "no batch of the training's DataLoader was recorded with its CPU time"


def test_lines_are_ranked_within_their_stage(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import torch\nbatch = load(path)\nprint(loss.item())\n")
    tape = Training()
    sampler = Tape("sampler", clock=tape)
    for number in range(80):
        with tape.open(Name.DATA_WAIT, DataWait.NEXT, 1):
            tape.wait(100 * US)
            sampler.sample(5 if number % 4 else 6)
            tape.wait(100 * US)
        tape.forward()
        tape.backward()
        tape.update()
        tape.wait(10 * US)
        sampler.sample(7)
        tape.wait(10 * US)
    sites = [
        {"kind": "site", "id": 5, "file": str(script), "line": 2, "function": "<module>", "leaf": "PIL.Image.open"},
        {"kind": "site", "id": 6, "file": str(script), "line": 1, "function": "<module>", "leaf": ""},
        {"kind": "site", "id": 7, "file": str(script), "line": 3, "function": "<module>", "leaf": ""},
    ]
    write_run(tmp_path / "run", [tape, sampler], [CPU, LOADER, *sites])
    stages = read_facts(tmp_path / "run").stages
    first, second = stages["data_wait"].lines
    assert (first.site.line, first.leaf, first.source) == (2, "PIL.Image.open", "batch = load(path)")
    assert first.samples + second.samples == 79  # those of the warm-up step are left out
    assert first.share_of_stage == pytest.approx(60 / 79)
    assert first.ms_per_step == pytest.approx(0.2 * 60 / 79)
    (line,) = stages["other"].lines
    assert (line.site.line, line.source, line.share_of_stage) == (3, "print(loss.item())", 1.0)
    assert "forward" in stages
    assert stages["forward"].lines == ()


@pytest.mark.parametrize(
    ("leak", "grows"), [(2 << 20, True), (0, False)], ids=["two MiB a step", "noise around a level"]
)
def test_memory_that_grows_is_told_from_memory_that_swings(tmp_path: Path, leak: int, grows: bool) -> None:
    tape = Training()
    sampler = Tape("sampler", clock=tape)
    for number in range(300):
        tape.step()
        swing = (number * 7919) % 13 * (1 << 20)
        sampler.sample(1, rss_bytes=(1 << 30) + number * leak + swing)
    write_run(tmp_path / "run", [tape, sampler], [CPU])
    memory = read_facts(tmp_path / "run").memory
    if grows:
        assert memory.growth_bytes_per_step == pytest.approx(leak, rel=0.05)
        assert memory.growth_bytes == pytest.approx(leak * 298, rel=0.06)
    else:
        assert memory.growth_bytes_per_step is None
    assert memory.peak_rss_bytes is not None
    assert len(memory.timeline) <= 600
    assert max(sample.rss_bytes for sample in memory.timeline) == memory.peak_rss_bytes


@pytest.mark.parametrize("looked_at", [30, 45, 75])
def test_memory_that_our_own_look_leaves_behind_is_no_growth(tmp_path: Path, looked_at: int) -> None:
    tape = Training()
    sampler = Tape("sampler", clock=tape)
    for number in range(90):
        tape.step()
        if number == looked_at:
            tape.call(Name.INSTRUMENT, 200 * MS, Instrument.DEEP_WINDOW)
        sampler.sample(1, rss_bytes=(1 << 30) + (number > looked_at) * (64 << 20) + number * 1024)
    write_run(tmp_path / "run", [tape, sampler], [CPU])
    assert read_facts(tmp_path / "run").memory.growth_bytes_per_step is None


def test_memory_peaks_belong_to_the_stage_in_which_they_were_seen(tmp_path: Path) -> None:
    tape = Training()
    sampler = Tape("sampler", clock=tape)
    for number in range(30):
        tape.batch()
        tape.push(Name.FORWARD, Forward.MODULE, 1, TRAIN)
        tape.wait(100 * US)
        sampler.sample(1, rss_bytes=1000 + number)
        tape.wait(1 * US)
        tape.pop(Name.FORWARD, Forward.MODULE, 1)
        with tape.open(Name.BACKWARD):
            tape.wait(100 * US)
            sampler.sample(1, rss_bytes=5000 + number)
            tape.wait(1 * US)
        tape.update()
    held = {
        "kind": "memory",
        "categories": {"parameters": 10, "gradients": 10, "optimizer": 20, "activations": 70},
        "activations_by_module": [["head (Linear)", 20], ["body (Conv2d)", 50]],
    }
    write_run(tmp_path / "run", [tape, sampler], [CPU, held])
    memory = read_facts(tmp_path / "run").memory
    assert memory.stage_peak_bytes == {"forward": 1029, "backward": 5029}
    assert memory.categories_bytes["activations"] == 70
    assert memory.activations_by_module == (("body (Conv2d)", 50), ("head (Linear)", 20))
    assert memory.peak_device_bytes is None


def test_outliers_name_the_stage_that_grew_and_a_cause_where_there_is_one(tmp_path: Path) -> None:
    tape = Training()
    for number in range(120):
        if number == 90:
            tape.exhausted()
            tape.iterator(30 * MS)
        if number == 70:
            tape.batch()
            tape.forward()
            with tape.open(Name.BACKWARD):
                tape.wait(500 * US)
                tape.pause(12 * MS)
            tape.update()
        else:
            tape.step(other_ns=20 * MS if number == 40 else 20 * US)
    write_run(tmp_path / "run", [tape], [CPU])
    facts = read_facts(tmp_path / "run")
    assert facts.steps is not None
    told = [(outlier.index, outlier.stage, outlier.cause) for outlier in facts.steps.outliers]
    assert told == [
        (40, "other", None),
        (70, "backward", "garbage collection"),
        (90, "data_wait", "epoch boundary"),
    ]
    assert facts.steps.outlier_share == pytest.approx(3 / 119)
    assert facts.steps.outliers[1].grew_ms == pytest.approx(12.0)
    assert facts.gc_pauses == 1
    assert facts.gc_ms_per_step == pytest.approx(12 / 119)
    taken = {cause: ms * 119 for cause, ms in facts.steps.outlier_ms.items()}
    assert taken == pytest.approx({"epoch boundary": 30.05, "": 19.98, "garbage collection": 12.0}, abs=0.2)


def test_the_first_batch_of_an_epoch_is_held_against_the_others(tmp_path: Path) -> None:
    tape = Training()
    for number in range(100):
        if number and number % 20 == 0:
            tape.exhausted()
            tape.iterator(30 * MS)
            tape.step(batch=9 * MS)
        else:
            tape.step()
    write_run(tmp_path / "run", [tape], [CPU])
    steps = read_facts(tmp_path / "run").steps
    assert steps is not None
    assert steps.epoch_starts == 4
    # without the making of the iterator, and without the end of the epoch before
    assert steps.epoch_start_ms == pytest.approx(9.0 - 0.2, abs=0.001)


def test_a_run_of_one_epoch_has_no_epochs_to_compare(tmp_path: Path) -> None:
    plain_run(tmp_path / "birds")
    steps = read_facts(tmp_path / "birds").steps
    assert steps is not None
    assert (steps.epoch_starts, steps.epoch_start_ms) == (0, None)


def test_steps_in_which_we_or_the_compiler_worked_are_left_out_of_the_statistics(tmp_path: Path) -> None:
    tape = Training()
    for number in range(60):
        tape.batch()
        tape.forward(300 * US if number not in (30, 40) else 9 * MS)
        if number == 30:
            tape.call(Name.INSTRUMENT, 200 * MS, Instrument.MEMORY_STEP)
        if number == 40:
            tape.call(Name.COMPILE, 900 * MS)
        tape.backward()
        tape.update()
    write_run(tmp_path / "run", [tape], [CPU])
    facts = read_facts(tmp_path / "run")
    assert facts.steps is not None
    assert (facts.steps.count, facts.steps.measured, facts.steps.outliers) == (60, 57, ())
    assert facts.overhead.instrument_s == pytest.approx(0.2)


def test_cores_are_read_from_the_counters_while_steps_ran(tmp_path: Path) -> None:
    tape = Training()
    sampler = Tape("sampler", clock=tape)
    for number in range(50):
        if number % 5 == 0:
            past = tape.now - START_NS
            sampler.resources(
                process_cpu_ns=past,
                system_idle_ns=9 * SECOND + past // 2,
                system_iowait_ns=past // 4,
                training_run_delay_ns=past // 5,
                workers_rss_bytes=number,
                gpu_power_milliwatts=70_000,
            )
        tape.step()
    write_run(tmp_path / "run", [tape, sampler], [{**CPU, "name": "NVIDIA H100", "asynchronous": True}])
    facts = read_facts(tmp_path / "run")
    assert facts.machine.idle_cores == pytest.approx(0.5)
    assert facts.machine.iowait_cores == pytest.approx(0.25)
    assert facts.machine.process_cores == pytest.approx(1.0)
    assert facts.machine.without_core == pytest.approx(0.2)
    assert any(it.startswith("for 20 % of the steps' time the training thread was ready") for it in facts.notices)
    assert facts.machine.gpu == {"power_w": pytest.approx(70.0)}
    assert facts.machine.asynchronous
    assert facts.memory.workers_peak_rss_bytes == 45


def test_overhead_is_the_events_at_their_price(tmp_path: Path) -> None:
    notes = [{"kind": "cost", "ns_per_event": 300.0}, {"kind": "sampler", "share": 0.002}]
    plain_run(tmp_path / "run", notes=notes)
    overhead = read_facts(tmp_path / "run").overhead
    assert overhead.events_per_step == pytest.approx(10.0, abs=0.02)
    assert overhead.us_per_step == pytest.approx(3.0, rel=0.01)
    assert overhead.share == pytest.approx(3.0 / 1190, rel=0.01)
    assert overhead.sampler_share == 0.002


def test_a_long_run_is_drawn_in_few_rows_that_keep_their_slowest_step(tmp_path: Path) -> None:
    tape = Training()
    for number in range(5000):
        tape.step(forward=80 * MS if number == 3333 else 300 * US)
    write_run(tmp_path / "run", [tape], [CPU])
    timeline = read_facts(tmp_path / "run").timeline
    assert timeline is not None
    assert timeline.steps_per_row == 9
    assert len(timeline.start_s) == len(timeline.wall_ms) == 556
    assert max(timeline.max_ms) == pytest.approx(80.89)
    assert timeline.max_ms[3333 // 9] == pytest.approx(80.89)
    row = {name: values[100] for name, values in timeline.stages_ms.items()}
    assert sum(row.values()) == pytest.approx(timeline.wall_ms[100])


def test_a_killed_run_is_read_up_to_its_last_event(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(30):
        tape.step()
    tape.batch()
    tape.push(Name.FORWARD, Forward.MODULE, 1, TRAIN)
    write_run(tmp_path / "run", [tape], [CPU], run_json={"signal": "SIGKILL", "exit_code": -9})
    facts = read_facts(tmp_path / "run")
    assert facts.steps is not None
    assert facts.steps.count == 30
    assert (facts.run.ended, facts.run.signal) == (False, "SIGKILL")
    assert "the last step was cut short and is not counted" in facts.notices


def test_without_a_step_everything_else_is_still_told(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(10):
        tape.batch()
        tape.forward(flags=0)
    write_run(tmp_path / "run", [tape], [CPU, LOADER])
    facts = read_facts(tmp_path / "run")
    assert facts.steps is None
    assert facts.stages == {}
    assert facts.not_measured["steps"] == "no backward pass and no optimizer step was seen"
    assert [span.name for span in facts.spans] == ["evaluation"]
    assert facts.settings.loaders[0].dataset == "Birds"
    assert not facts.settings.loaders[0].trains


def test_a_run_that_called_no_hook_says_so(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [])
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    facts = read_facts(tmp_path / "run")
    assert facts.steps is None
    assert "no process of the run called a hook" in facts.not_measured["steps"]


def test_a_folder_that_holds_nothing_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProfError, match="holds no recorded events"):
        read_facts(tmp_path)
    with pytest.raises(ProfError, match="is not a folder"):
        read_facts(tmp_path / "absent")


def test_garbage_in_the_folder_costs_a_notice_and_not_the_facts(tmp_path: Path) -> None:
    plain_run(tmp_path / "run")
    directory = layout.process_directories(tmp_path / "run")[0]
    (directory / "thread-1-000001.tape").write_bytes(b"\xff" * 4000)
    (directory / "sampler-000000.tape").write_bytes(b"")
    (directory / "worker-9-000000.tape").write_bytes(b"TPTAPE01" + b"\x01" * 900)
    (directory / layout.NOTES).write_bytes(b"\x00\xff\n{]\n" + (directory / layout.NOTES).read_bytes())
    (tmp_path / "run" / layout.RUN_JSON).write_bytes(b"{")
    facts = read_facts(tmp_path / "run")
    assert facts.steps is not None
    assert facts.steps.count == 100
    assert facts.run.name == "run"
    assert any("thread-1-000001.tape" in notice for notice in facts.notices)
    assert any("notes could not be read" in notice for notice in facts.notices)


def test_of_several_processes_the_one_that_trained_most_is_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    plain_run(run, steps=20, pid=100)
    plain_run(run, steps=70, pid=200)
    facts = read_facts(run)
    assert facts.steps is not None
    assert facts.steps.count == 70
    assert facts.run.other_trainings == 1


def test_ranks_of_different_length_are_laid_side_by_side_and_it_is_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    plain_run(run, steps=20)
    tape = Training()
    for _ in range(99):
        tape.step()
    tape.write(layout.rank_directory(run, 1) / "300")
    facts = read_facts(run)
    assert facts.steps is not None and facts.ranks is not None
    assert facts.run.ranks == 2
    assert facts.ranks.recorded == (0, 1)
    assert [row.steps for row in facts.ranks.rows] == [20, 99]
    assert any("between 20 and 99 steps" in notice for notice in facts.notices)
    assert read_facts(run) == facts  # from what the ranks left of themselves, too


def test_our_own_errors_are_told_first(tmp_path: Path) -> None:
    plain_run(tmp_path / "run", notes=[{"kind": "disabled", "where": "forward", "error": "KeyError: 1"}])
    notice = read_facts(tmp_path / "run").notices[0]
    assert notice == "recording was switched off by an error of its own in forward: KeyError: 1"


def test_settings_keep_their_places(tmp_path: Path) -> None:
    notes = [
        {"kind": "optimizer", "id": 1, "name": "AdamW", "foreach": False, "fused": None, "tensors": 62, "groups": 1,
         "parameters": 1000, "file": "/t.py", "line": 7},
        {"kind": "root", "id": 1, "name": "Net", "parameters": 1000, "dtypes": ["float32"], "file": "/t.py", "line": 9},
        {"kind": "setting", "name": "torch_num_threads", "value": 1, "file": "/t.py", "line": 3},
        {"kind": "call", "stage": "optimizer", "detail": int(Optimizer.ZERO_GRAD), "file": "/t.py", "line": 20},
        {"kind": "call", "stage": "optimizer", "detail": int(Optimizer.STEP), "file": "/t.py", "line": 23},
    ]  # fmt: skip
    plain_run(tmp_path / "run", notes=notes)
    facts = read_facts(tmp_path / "run")
    (optimizer,) = facts.settings.optimizers
    assert (optimizer.name, optimizer.foreach, optimizer.fused, optimizer.capturable) == ("AdamW", False, None, None)
    assert (str(optimizer.site), str(facts.settings.roots[0].site)) == ("/t.py:7", "/t.py:9")
    assert facts.settings.values == {"torch_num_threads": 1}
    assert str(facts.settings.sites["torch_num_threads"]) == "/t.py:3"
    assert str(facts.stages["optimizer"].call) == "/t.py:23"
    assert {part: str(site) for part, site in facts.stages["optimizer"].part_calls.items()} == {
        "zero_grad": "/t.py:20",
        "step": "/t.py:23",
    }


def test_a_raised_forward_is_named_where_its_step_stands_out(tmp_path: Path) -> None:
    tape = Training()
    for number in range(80):
        if number == 60:
            tape.batch()
            tape.forward(9 * MS, pop_flags=Flag.RAISED)
        tape.step()
    write_run(tmp_path / "run", [tape], [CPU])
    facts = read_facts(tmp_path / "run")
    assert facts.steps is not None
    assert [(outlier.index, outlier.cause) for outlier in facts.steps.outliers] == [(60, "an exception")]


def test_a_run_read_twice_says_the_same_and_reading_changes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    plain_run(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert read_facts(run) == read_facts(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert json.loads((run / layout.RUN_JSON).read_text())["name"] == "run"


def test_an_empty_tape_is_a_run_without_events(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [])
    write_segment(directory / "thread-1-000000.tape", [])
    facts = read_facts(tmp_path / "run")
    assert facts.not_measured["steps"] == "the record holds no event that can be read"


def test_ranks_that_left_much_are_reduced_side_by_side_to_the_same_facts(tmp_path: Path, monkeypatch: Any) -> None:
    from profiler.analysis.ranks import spread

    run = tmp_path / "run"
    for rank in range(3):
        tape = Training()
        for _ in range(30 + rank):
            tape.step()
        tape.write(layout.rank_directory(run, rank) / str(10**6 + rank))
    monkeypatch.setattr(spread, "SPREAD_SEGMENTS", 3)
    assert spread.reduce_ahead(run, layout.process_directories(run)) == 3
    assert len(list(run.rglob(layout.RANK_JSON))) == 3
    spread_out = read_facts(run)
    for path in run.rglob(layout.RANK_JSON):
        path.unlink()
    monkeypatch.setattr(spread, "SPREAD_SEGMENTS", 1 << 30)
    assert read_facts(run) == spread_out
    assert spread_out.ranks is not None and spread_out.ranks.recorded == (0, 1, 2)
