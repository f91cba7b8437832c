"""Every shape of a training loop is cut into the steps that its author means, and each step's stages sum to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tape_builder import MS, PLAIN_STEP_NS, START_NS, TRAIN, US, Training, write_notes

from profiler.analysis import labels as lab
from profiler.analysis.block import Happened
from profiler.analysis.fold import collect
from profiler.analysis.folded import Folded
from profiler.record.vocabulary import Checkpoint, Flag, Forward, Instrument, Name, Optimizer

NO_GRAD_EVAL = 0
NO_GRAD_TRAIN_MODE = Flag.TRAINING


def folded(tape: Training, tmp_path: Path) -> Folded:
    tape.write(tmp_path)
    state = collect(tmp_path, final=True)
    columns = state.steps.columns()
    if columns:
        parts = sum(column for name, column in columns.items() if name.startswith("part_"))
        assert (parts == columns["wall_ns"]).all(), "stages must sum to the step exactly"
    return state


def walls(state: Folded) -> list[int]:
    columns = state.steps.columns()
    return columns["wall_ns"].tolist() if columns else []


def stage_ns(state: Folded, stage: str, part: str | None = None) -> list[int]:
    columns = state.steps.columns()
    total = columns["wall_ns"] * 0
    for number, (of_stage, of_part) in enumerate(lab.PARTS):
        if of_stage == stage and part in (None, of_part):
            total = total + columns.get(f"part_{number}", 0)
    return total.tolist()


def spans(state: Folded) -> list[tuple[str, int, int]]:
    columns = state.spans.columns()
    if not columns:
        return []
    names = {number: name for name, number in lab.SPAN_LABELS.items()}
    return [
        (names[label], start, end)
        for label, start, end in zip(
            columns["label"].tolist(), columns["start_ns"].tolist(), columns["end_ns"].tolist(), strict=True
        )
    ]


def happened(state: Folded) -> list[Happened]:
    return [Happened(flags) for flags in state.steps.columns()["flags"].tolist()]


def test_a_plain_loop_has_one_step_per_batch_and_every_stage_its_time(tmp_path: Path) -> None:
    tape = Training()
    tape.iterator()
    for _ in range(5):
        tape.step()
    state = folded(tape, tmp_path)
    # the first step also starts the iterator, the last one ends with its update
    assert walls(state) == [PLAIN_STEP_NS + 100 * US, *[PLAIN_STEP_NS] * 3, PLAIN_STEP_NS - 20 * US]
    assert stage_ns(state, "data_wait") == [300 * US, *[200 * US] * 4]
    assert stage_ns(state, "forward", "module") == [300 * US] * 5
    assert stage_ns(state, "forward", "loss") == [60 * US] * 5
    assert stage_ns(state, "backward") == [500 * US] * 5
    assert stage_ns(state, "optimizer", "step") == [100 * US] * 5
    assert stage_ns(state, "optimizer", "zero_grad") == [10 * US] * 5
    assert stage_ns(state, "other") == [*[20 * US] * 4, 0]
    assert state.steps.columns()["micro_batches"].tolist() == [1] * 5
    assert state.steps.columns()["batches"].tolist() == [1] * 5


def test_zero_grad_after_the_update_belongs_to_the_same_step(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(4):
        tape.batch()
        tape.forward()
        tape.backward()
        tape.update()
        tape.zero_grad()
    state = folded(tape, tmp_path)
    assert walls(state) == [1110 * US] * 4
    assert stage_ns(state, "optimizer") == [110 * US] * 4


def test_accumulation_makes_one_step_of_its_micro_batches(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(3):
        for _ in range(4):
            tape.batch()
            tape.forward()
            tape.backward()
        tape.update()
        tape.zero_grad()
    state = folded(tape, tmp_path)
    assert walls(state) == [4 * 1000 * US + 110 * US] * 3
    assert state.steps.columns()["micro_batches"].tolist() == [4] * 3
    assert state.steps.columns()["batches"].tolist() == [4] * 3


def gan_cycle(tape: Training, critics: int = 1) -> None:
    for _ in range(critics):
        tape.forward(100 * US, root=1)
        tape.backward(100 * US)
        tape.update(50 * US, optimizer=1)
    tape.forward(200 * US, root=2)
    tape.backward(200 * US)
    tape.update(60 * US, optimizer=2)


def test_a_gan_fed_by_a_loader_makes_one_step_of_both_optimizers(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(4):
        tape.batch()
        gan_cycle(tape)
    assert walls(folded(tape, tmp_path)) == [910 * US] * 4


@pytest.mark.parametrize("critics", [1, 5])
def test_a_gan_without_a_loader_makes_one_step_of_a_cycle(tmp_path: Path, critics: int) -> None:
    tape = Training()
    for _ in range(4):
        gan_cycle(tape, critics)
    assert walls(folded(tape, tmp_path)) == [critics * 250 * US + 460 * US] * 4


def test_optimizers_that_step_together_make_one_step(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(4):
        tape.forward()
        tape.backward()
        tape.update(optimizer=1)
        tape.update(optimizer=2)
    assert walls(folded(tape, tmp_path)) == [1000 * US] * 4


@pytest.mark.parametrize("loader", [True, False])
def test_a_closure_inside_the_update_keeps_its_forward_and_backward(tmp_path: Path, loader: bool) -> None:
    tape = Training()
    for _ in range(4):
        if loader:
            tape.batch()
        else:
            tape.copy(200 * US)
        with tape.open(Name.OPTIMIZER, Optimizer.STEP, 1):
            for _ in range(3):
                tape.wait(5 * US)
                tape.zero_grad()
                tape.forward()
                tape.wait(60 * US)
                tape.backward()
            tape.wait(30 * US)
    state = folded(tape, tmp_path)
    assert walls(state) == [200 * US + 3 * 875 * US + 30 * US] * 4
    assert stage_ns(state, "forward") == [3 * 360 * US] * 4
    assert stage_ns(state, "backward") == [3 * 500 * US] * 4
    assert stage_ns(state, "optimizer") == [3 * 15 * US + 30 * US] * 4
    assert state.steps.columns()["micro_batches"].tolist() == [3] * 4


def evaluate(tape: Training, loader: int = 2, batches: int = 3, flags: int = NO_GRAD_EVAL, early: bool = False) -> None:
    tape.iterator(loader=loader)
    for _ in range(batches):
        tape.batch(loader=loader)
        tape.forward(flags=flags)
    if not early:
        tape.exhausted(loader=loader)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("loader", "flags"),
    [(2, NO_GRAD_EVAL), (2, TRAIN), (1, NO_GRAD_EVAL)],
    ids=["own loader", "own loader, gradients left on", "the training loader"],
)
def test_evaluation_between_steps_is_a_span_and_in_no_step(
    tmp_path: Path, early: bool, loader: int, flags: int
) -> None:
    tape = Training()
    evaluations = []
    for number in range(12):
        tape.step()
        if number % 4 == 3:
            begin = tape.now
            evaluate(tape, loader=loader, flags=flags, early=early)
            evaluations.append(("evaluation", begin, tape.now))
            tape.wait(3 * MS)
    state = folded(tape, tmp_path)
    assert walls(state) == [PLAIN_STEP_NS] * 12
    assert spans(state) == evaluations
    after = [number for number, flags in enumerate(happened(state)) if Happened.AFTER_EVALUATION in flags]
    assert after == [4, 8]


def test_evaluation_without_a_loader_is_a_span(tmp_path: Path) -> None:
    tape = Training()
    evaluations = []
    for number in range(9):
        if number % 3 == 0:
            begin = tape.now
            for _ in range(4):
                tape.copy()
                tape.forward(flags=NO_GRAD_EVAL)
            evaluations.append(("evaluation", begin, tape.now))
            tape.wait(2 * MS)
        tape.copy()
        tape.forward()
        tape.backward()
        tape.update()
    state = folded(tape, tmp_path)
    assert walls(state) == [930 * US] * 9
    assert spans(state) == evaluations


def test_training_without_a_loader_evaluates_with_one(tmp_path: Path) -> None:
    tape = Training()
    evaluations = []
    for number in range(50):
        tape.forward()
        tape.backward()
        tape.update()
        if number % 10 == 9:
            begin = tape.now
            evaluate(tape)
            evaluations.append(("evaluation", begin, tape.now))
            tape.wait(MS)
    state = folded(tape, tmp_path)
    assert walls(state) == [900 * US] * 50
    assert spans(state) == evaluations


def test_without_any_loader_steps_begin_at_the_training_forward(tmp_path: Path) -> None:
    tape = Training()
    tape.wait(7 * MS)
    for _ in range(6):
        tape.forward()
        tape.wait(60 * US)
        tape.backward()
        tape.update()
        tape.wait(400 * US)  # making the next batch by hand
    state = folded(tape, tmp_path)
    assert walls(state) == [1360 * US] * 5 + [960 * US]
    assert stage_ns(state, "other") == [400 * US] * 5 + [0]


def test_between_epochs_no_step_runs_and_the_next_one_starts_the_iterator(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(3):
        tape.iterator(2 * MS)
        for _ in range(4):
            tape.step()
        tape.exhausted()
        tape.wait(9 * MS)
    state = folded(tape, tmp_path)
    assert walls(state) == ([PLAIN_STEP_NS + 2 * MS] + [PLAIN_STEP_NS] * 3) * 3
    starts = [number for number, flags in enumerate(happened(state)) if Happened.ITERATOR in flags]
    assert starts == [0, 4, 8]


def test_a_batch_taken_before_an_early_break_makes_no_step(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(2):
        tape.iterator()
        for _ in range(4):
            tape.step()
        tape.batch()
        tape.wait(5 * MS)
    state = folded(tape, tmp_path)
    assert walls(state) == [PLAIN_STEP_NS + 100 * US, *[PLAIN_STEP_NS] * 3] * 2


def test_an_exception_inside_a_step_leaves_the_steps_before_it(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(3):
        tape.step()
    tape.batch()
    tape.forward(pop_flags=Flag.RAISED)
    state = folded(tape, tmp_path)
    assert walls(state) == [PLAIN_STEP_NS] * 3
    assert state.cut_short


def test_a_raised_and_caught_forward_counts_to_the_step_that_goes_on(tmp_path: Path) -> None:
    tape = Training()
    for number in range(6):
        if number == 3:
            tape.batch()
            tape.forward(pop_flags=Flag.RAISED)
        tape.step()
    state = folded(tape, tmp_path)
    assert walls(state) == [PLAIN_STEP_NS] * 3 + [
        PLAIN_STEP_NS + 500 * US,
        PLAIN_STEP_NS,
        PLAIN_STEP_NS - 20 * US,
    ]
    assert [Happened.RAISED in flags for flags in happened(state)] == [False] * 3 + [True] + [False] * 2


def test_pops_that_an_exception_swallowed_are_put_in(tmp_path: Path) -> None:
    tape = Training()
    for number in range(6):
        tape.batch()
        tape.push(Name.FORWARD, Forward.MODULE, 1, TRAIN)
        tape.wait(300 * US)
        if number != 2:
            tape.pop(Name.FORWARD, Forward.MODULE, 1)
            tape.backward()
            tape.update()
    state = folded(tape, tmp_path)
    assert walls(state) == [1100 * US, 1100 * US, 500 * US + 1100 * US, 1100 * US, 1100 * US]
    assert state.repaired_blocks == 1


def test_pops_that_close_nothing_are_ignored(tmp_path: Path) -> None:
    tape = Training()
    tape.pop(Name.BACKWARD)
    for _ in range(4):
        tape.step()
    assert len(walls(folded(tape, tmp_path))) == 4


def test_a_teacher_without_gradients_is_part_of_the_forward(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(5):
        tape.batch()
        tape.forward(150 * US, root=7, flags=NO_GRAD_EVAL)
        tape.forward()
        tape.backward()
        tape.update()
    state = folded(tape, tmp_path)
    assert stage_ns(state, "forward") == [450 * US] * 5
    assert spans(state) == []


def test_a_compiled_optimizer_without_hooks_is_cut_at_each_batch(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(5):
        tape.batch()
        tape.forward()
        tape.backward()
        tape.wait(70 * US)
    state = folded(tape, tmp_path)
    assert walls(state) == [1070 * US] * 4 + [1000 * US]


def test_a_compiled_optimizer_that_never_pops_does_not_swallow_the_next_steps(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(8):
        tape.batch()
        tape.forward()
        tape.backward()
        tape.push(Name.OPTIMIZER, Optimizer.STEP, 1)
        tape.wait(70 * US)
    state = folded(tape, tmp_path)
    assert walls(state)[:7] == [1070 * US] * 7
    assert stage_ns(state, "data_wait")[:7] == [200 * US] * 7
    assert stage_ns(state, "optimizer")[:7] == [70 * US] * 7


def test_forwards_that_checkpointing_recomputes_are_backward(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(4):
        tape.batch()
        tape.forward()
        with tape.open(Name.BACKWARD):
            tape.wait(100 * US)
            tape.forward(80 * US, flags=NO_GRAD_TRAIN_MODE)
            tape.call(Name.BACKWARD, 90 * US)
        tape.update()
    state = folded(tape, tmp_path)
    assert stage_ns(state, "forward") == [300 * US] * 4
    assert stage_ns(state, "backward") == [270 * US] * 4
    assert state.steps.columns()["micro_batches"].tolist() == [1] * 4


def test_a_prefetching_loop_takes_the_next_batch_after_the_forward(tmp_path: Path) -> None:
    tape = Training()
    tape.iterator()
    tape.batch()
    for _ in range(6):
        tape.forward()
        tape.batch()
        tape.backward()
        tape.update()
    state = folded(tape, tmp_path)
    assert spans(state) == []
    columns = state.steps.columns()
    # a step reaches from batch to batch: the first holds a forward more, the last one ends with its update
    assert walls(state)[1:-1] == [1100 * US] * 4
    assert int(columns["wall_ns"].sum()) == tape.now - START_NS


def test_two_loaders_taken_together_feed_one_step(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(5):
        tape.batch(loader=1)
        tape.batch(loader=2)
        tape.forward()
        tape.backward()
        tape.update()
    state = folded(tape, tmp_path)
    assert walls(state) == [1300 * US] * 5
    assert state.carry.known.trained_loaders == {1, 2}


def test_a_trainer_that_evaluates_and_saves_keeps_both_out_of_its_steps(tmp_path: Path) -> None:
    tape = Training()
    for epoch in range(3):
        tape.iterator()
        for _ in range(4):
            tape.step()
        if epoch < 2:
            tape.exhausted()
        evaluate(tape)
        tape.call(Name.CHECKPOINT, 40 * MS, Checkpoint.SAVE)
        tape.wait(MS)
    state = folded(tape, tmp_path)
    assert walls(state) == [PLAIN_STEP_NS + 100 * US, *[PLAIN_STEP_NS] * 3] * 3
    assert [name for name, _, _ in spans(state)] == ["evaluation", "checkpoint"] * 3


def test_a_checkpoint_after_the_update_is_taken_out_of_the_step(tmp_path: Path) -> None:
    tape = Training()
    for number in range(6):
        tape.step()
        if number == 2:
            tape.call(Name.CHECKPOINT, 40 * MS, Checkpoint.SAVE)
    state = folded(tape, tmp_path)
    assert walls(state) == [PLAIN_STEP_NS] * 5 + [PLAIN_STEP_NS - 20 * US]
    assert [name for name, _, _ in spans(state)] == ["checkpoint"]
    assert Happened.AFTER_CHECKPOINT in happened(state)[3]


def test_compilation_and_our_own_work_mark_their_step_and_leave_its_time(tmp_path: Path) -> None:
    tape = Training()
    for number in range(4):
        tape.batch()
        with tape.open(Name.FORWARD, Forward.MODULE, 1, TRAIN):
            if number == 1:
                tape.call(Name.COMPILE, 900 * MS)
            tape.wait(300 * US)
        tape.backward()
        tape.update()
        if number == 2:
            tape.call(Name.INSTRUMENT, 200 * MS, Instrument.DEEP_WINDOW)
    state = folded(tape, tmp_path)
    assert walls(state) == [1100 * US] * 4
    assert happened(state) == [Happened(0), Happened.COMPILED, Happened.INSTRUMENTED, Happened(0)]
    assert [name for name, _, _ in spans(state)] == ["compile", "instrument"]


def test_explicit_marks_rule(tmp_path: Path) -> None:
    tape = Training()
    for number in range(12):
        tape.batch()
        tape.forward()
        tape.backward()
        tape.update()
        if number % 3 == 2:
            tape.mark(Name.STEP)
    state = folded(tape, tmp_path)
    assert walls(state) == [3300 * US] * 4
    assert state.carry.known.explicit


def test_explicit_marks_alone_make_steps_of_other(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(5):
        tape.mark(Name.STEP)
        tape.wait(2 * MS)
    state = folded(tape, tmp_path)
    assert walls(state) == [2 * MS] * 4
    assert stage_ns(state, "other") == [2 * MS] * 4


def test_a_training_after_another_one_is_cut_by_its_own_optimizer(tmp_path: Path) -> None:
    tape = Training()
    for optimizer, steps in ((1, 20), (2, 5)):
        for _ in range(steps):
            tape.forward()
            tape.backward()
            tape.update(optimizer=optimizer)
    assert walls(folded(tape, tmp_path)) == [900 * US] * 25


def test_many_updates_on_one_batch_are_steps_of_their_own(tmp_path: Path) -> None:
    tape = Training()
    tape.batch()
    for _ in range(100):
        tape.forward()
        tape.backward()
        tape.update()
    assert walls(folded(tape, tmp_path)) == [1100 * US] + [900 * US] * 99


def test_inference_alone_is_no_step(tmp_path: Path) -> None:
    tape = Training()
    evaluate(tape, batches=50)
    state = folded(tape, tmp_path)
    assert walls(state) == []
    assert spans(state) == [("evaluation", START_NS, tape.now)]


def test_a_stage_of_the_users_is_named_and_a_canonical_name_counts_as_that_stage(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(4):
        with tape.open(Name.USER_STAGE, obj=1):
            tape.wait(150 * US)
        with tape.open(Name.USER_STAGE, obj=2):
            tape.wait(70 * US)
        tape.forward()
        tape.backward()
        tape.update()
    write_notes(
        tmp_path,
        [
            {"kind": "stage_name", "id": 1, "name": "data_wait"},
            {"kind": "stage_name", "id": 2, "name": "tokenize"},
        ],
    )
    state = folded(tape, tmp_path)
    columns = state.steps.columns()
    assert stage_ns(state, "data_wait") == [150 * US] * 3 + [0]  # the batch after a step is made within it
    assert columns[f"part_{lab.FIRST_USER}"].tolist() == [70 * US] * 3 + [0]
    assert state.user_parts == {lab.FIRST_USER: "tokenize"}


def test_garbage_collection_lies_over_its_step_and_takes_nothing_from_its_stages(tmp_path: Path) -> None:
    tape = Training()
    for number in range(4):
        tape.batch()
        with tape.open(Name.FORWARD, Forward.MODULE, 1, TRAIN):
            tape.wait(100 * US)
            if number == 2:
                tape.pause(200 * US)
        tape.backward()
        tape.update()
    state = folded(tape, tmp_path)
    assert state.steps.columns()["gc_ns"].tolist() == [0, 0, 200 * US, 0]
    assert stage_ns(state, "forward") == [100 * US, 100 * US, 300 * US, 100 * US]
    assert (state.pauses, state.pause_ns) == (1, 200 * US)


def test_an_event_with_an_unknown_kind_is_skipped(tmp_path: Path) -> None:
    tape = Training()
    for _ in range(4):
        tape.step()
        tape.events.append((99, 12345))
    state = folded(tape, tmp_path)
    assert len(walls(state)) == 4
    assert "4 damaged events" in state.notices[0]


def test_garbage_collected_in_an_evaluation_belongs_to_no_step(tmp_path: Path) -> None:
    tape = Training()
    for number in range(6):
        tape.step()
        if number == 2:
            evaluate(tape, loader=2, flags=NO_GRAD_EVAL, early=False)
            tape.pause(5 * MS)
            evaluate(tape, loader=2, flags=NO_GRAD_EVAL, early=False)
    state = folded(tape, tmp_path)
    assert max(walls(state)) < 5 * MS
    assert not state.steps.columns()["gc_ns"].any()
