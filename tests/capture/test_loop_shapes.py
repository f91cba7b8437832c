"""Real loops of many shapes, recorded and read: how many steps, of what, and what is not a step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import profiler
from profiler.analysis.build import read_facts
from profiler.analysis.facts import Facts
from profiler.capture.install import begin, end
from profiler.capture.session import CaptureConfig
from profiler.record.run_folder import write_run_json

INPUTS, TARGETS = torch.randn(64, 8), torch.randint(0, 3, (64,))
STEPS = 16  # of 4 items each: one epoch


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def loader(items: int = 64, workers: int = 0) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(INPUTS[:items], TARGETS[:items]), batch_size=4, num_workers=workers)


def recorded(loop: Callable[[], None], folder: Path) -> Facts:
    """Run a loop under recording, and read its facts."""
    (folder / "processes").mkdir()
    write_run_json(folder, command=["python", "loop.py"], cores=2)
    session = begin(CaptureConfig(folder, deep=False))
    try:
        loop()
        assert session.active
    finally:
        end(session)
    return read_facts(folder)


def plain() -> None:
    model, criterion = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader():
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()


def folds_of_a_cross_validation() -> None:
    for _ in range(8):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for start in range(0, 32, 4):
            nn.functional.cross_entropy(model(INPUTS[start : start + 4]), TARGETS[start : start + 4]).backward()
            optimizer.step()
            optimizer.zero_grad()


def zero_grad_last_and_a_functional_loss() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    for x, y in loader():
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def three_epochs() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = loader()
    for _ in range(3):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def accumulation() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number, (x, y) in enumerate(loader()):
        (nn.functional.cross_entropy(model(x), y) / 4).backward()
        if number % 4 == 3:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


def no_loader() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        index = torch.randint(0, 64, (4,))
        loss = nn.functional.cross_entropy(model(INPUTS[index]), TARGETS[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def gan() -> None:
    generator, critic = nn.Linear(4, 8), nn.Linear(8, 1)
    of_generator = torch.optim.Adam(generator.parameters())
    of_critic = torch.optim.Adam(critic.parameters())
    for x, _ in loader():
        of_critic.zero_grad()
        (critic(generator(torch.randn(4, 4)).detach()).mean() - critic(x).mean()).backward()
        of_critic.step()
        of_generator.zero_grad()
        (-critic(generator(torch.randn(4, 4))).mean()).backward()
        of_generator.step()


def gan_without_loader() -> None:
    generator, critic = nn.Linear(4, 8), nn.Linear(8, 1)
    of_generator = torch.optim.Adam(generator.parameters())
    of_critic = torch.optim.Adam(critic.parameters())
    for _ in range(STEPS):
        of_critic.zero_grad()
        critic(generator(torch.randn(4, 4)).detach()).mean().backward()
        of_critic.step()
        of_generator.zero_grad()
        (-critic(generator(torch.randn(4, 4))).mean()).backward()
        of_generator.step()


def lbfgs() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    for x, y in loader():

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)


def evaluation_between_epochs() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training, validation = loader(), loader(32)
    for _ in range(2):
        model.train()
        for x, y in training:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for x, _ in validation:
                model(x)


def evaluation_without_no_grad() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training, validation = loader(), loader(32)
    for _ in range(2):
        for x, y in training:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        for x, _ in validation:
            model(x)


def evaluation_by_hand() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(STEPS):
        if number % 8 == 0:
            model.eval()
            with torch.no_grad():
                for _ in range(5):
                    model(INPUTS[:4])
            model.train()
        nn.functional.cross_entropy(model(INPUTS[:4]), TARGETS[:4]).backward()
        optimizer.step()
        optimizer.zero_grad()


def teacher() -> None:
    model, wise = net(), net().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, _ in loader():
        with torch.no_grad():
            target = wise(x)
        nn.functional.mse_loss(model(x), target).backward()
        optimizer.step()
        optimizer.zero_grad()


def two_optimizers_together() -> None:
    body, head = nn.Linear(8, 8), nn.Linear(8, 3)
    optimizers = [torch.optim.SGD(body.parameters(), lr=0.1), torch.optim.AdamW(head.parameters())]
    for _ in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        nn.functional.cross_entropy(head(body(INPUTS[:4])), TARGETS[:4]).backward()
        for optimizer in optimizers:
            optimizer.step()


def early_break() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = loader()
    for _ in range(4):
        for number, (x, y) in enumerate(batches):
            if number == 4:
                break
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def exceptions_inside_steps() -> None:
    class Fragile(nn.Linear):
        fails = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.fails:
                raise RuntimeError("out of memory, say")
            return super().forward(x)

    model = Fragile(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number, (x, y) in enumerate(loader()):
        model.fails = number % 4 == 2
        with contextlib.suppress(RuntimeError):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            if number % 4 == 1:
                loss.backward()  # twice through a graph that is gone: raises
            optimizer.step()


def checkpoints_between() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number, (x, y) in enumerate(loader()):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if number % 8 == 7:
            torch.save(model.state_dict(), "/dev/null")


@pytest.fixture(params=[True, False], ids=["reentrant", "non-reentrant"])
def recomputing(request: pytest.FixtureRequest) -> Callable[[], None]:
    def loop() -> None:
        first, last = net(), nn.Linear(3, 3)
        optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], lr=0.1)
        for x, y in loader():
            hidden = checkpoint(first, x.requires_grad_(), use_reentrant=request.param)
            nn.functional.cross_entropy(last(hidden), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return loop


class Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter([(INPUTS[i], TARGETS[i]) for i in range(64)])


def iterable_dataset() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in DataLoader(Stream(), batch_size=4):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def marked_by_hand() -> None:
    weight = torch.zeros(8, requires_grad=True)
    for _ in range(STEPS):
        with profiler.stage("data_wait"):
            x = torch.randn(8)
        (weight * x).sum().backward()
        with profiler.stage("optimizer"), torch.no_grad():
            weight -= 0.1 * weight.grad
            weight.grad = None
        profiler.step()


def mixed_precision_with_scaler_and_scheduler() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for x, y in loader():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()


# loop: steps, backward passes a step, batches a step, evaluations
SHAPES: list[tuple[Callable[[], None], int, float, float, int]] = [
    (plain, 16, 1, 1, 0),
    (zero_grad_last_and_a_functional_loss, 16, 1, 1, 0),
    (three_epochs, 48, 1, 1, 0),
    (accumulation, 4, 4, 4, 0),
    (no_loader, 16, 1, 0, 0),
    (gan, 16, 2, 1, 0),
    (gan_without_loader, 16, 2, 0, 0),
    (evaluation_between_epochs, 32, 1, 1, 2),
    (evaluation_without_no_grad, 32, 1, 1, 2),
    (evaluation_by_hand, 16, 1, 0, 2),
    (teacher, 16, 1, 1, 0),
    (two_optimizers_together, 16, 1, 0, 0),
    (early_break, 16, 1, 1, 0),
    (checkpoints_between, 16, 1, 1, 0),
    (iterable_dataset, 16, 1, 1, 0),
    (folds_of_a_cross_validation, 64, 1, 0, 0),
    (marked_by_hand, 16, 1, 0, 0),
    (mixed_precision_with_scaler_and_scheduler, 16, 1, 1, 0),
]


def spans(facts: Facts) -> dict[str, int]:
    return {span.name: span.count for span in facts.spans}


def assert_sound(facts: Facts) -> None:
    """The stages are a partition of the step."""
    assert facts.steps is not None
    assert sum(stage.mean_ms for stage in facts.stages.values()) == pytest.approx(facts.steps.mean_ms, rel=1e-9)
    assert sum(stage.share for stage in facts.stages.values()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(
    ("loop", "steps", "backwards", "batches", "evaluations"), SHAPES, ids=[shape[0].__name__ for shape in SHAPES]
)
def test_steps_are_optimizer_updates_and_evaluation_is_none(
    loop: Callable[[], None], steps: int, backwards: float, batches: float, evaluations: int, tmp_path: Path
) -> None:
    facts = recorded(loop, tmp_path)
    assert_sound(facts)
    assert facts.steps is not None
    assert facts.steps.count == steps
    assert facts.steps.micro_batches == pytest.approx(backwards, abs=0.01)
    assert facts.steps.batches == pytest.approx(batches, abs=0.01)
    assert spans(facts).get("evaluation", 0) == evaluations
    assert facts.stages["backward"].mean_ms > 0
    assert ("data_wait" in facts.stages) == (batches > 0 or loop is marked_by_hand)


@pytest.mark.parametrize(("loop", "with_graph"), [(evaluation_between_epochs, 0.0), (evaluation_without_no_grad, 1.0)])
def test_an_evaluation_says_whether_it_built_graphs(
    loop: Callable[[], None], with_graph: float, tmp_path: Path
) -> None:
    [evaluation] = [span for span in recorded(loop, tmp_path).spans if span.name == "evaluation"]
    assert (evaluation.count, evaluation.with_graph) == (2, with_graph)


def test_a_closure_runs_its_forward_and_backward_as_such(tmp_path: Path) -> None:
    facts = recorded(lbfgs, tmp_path)
    assert_sound(facts)
    assert facts.steps is not None
    assert facts.steps.count == 16
    assert facts.steps.micro_batches > 1
    assert facts.stages["forward"].mean_ms > 0
    assert facts.stages["optimizer"].mean_ms > 0


def test_recomputed_forwards_belong_to_backward(recomputing: Callable[[], None], tmp_path: Path) -> None:
    facts = recorded(recomputing, tmp_path)
    assert_sound(facts)
    assert facts.steps is not None
    assert facts.steps.count == 16
    assert spans(facts).get("evaluation", 0) == 0


def test_steps_that_raise_do_not_disturb_the_others(tmp_path: Path) -> None:
    facts = recorded(exceptions_inside_steps, tmp_path)
    assert_sound(facts)
    assert facts.steps is not None
    # batches 1 and 2 of every 4 fail before the update: they belong to the step that follows
    assert facts.steps.count == 8


def test_saving_a_checkpoint_is_a_span_and_no_part_of_a_step(tmp_path: Path) -> None:
    facts = recorded(checkpoints_between, tmp_path)
    assert spans(facts)["checkpoint"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_report_their_batches_forked_or_spawned(context: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "if __name__ == '__main__':\n"
        "    data = TensorDataset(torch.randn(4000, 8), torch.randn(4000, 3))\n"
        "    model = torch.nn.Linear(8, 3)\n"
        "    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        f"    loader = DataLoader(data, batch_size=50, num_workers=2, multiprocessing_context='{context}')\n"
        "    for x, y in loader:\n"
        "        optimizer.zero_grad()\n"
        "        torch.nn.functional.mse_loss(model(x), y).backward()\n"
        "        optimizer.step()\n"
    )
    import subprocess
    import sys

    command = [sys.executable, "-m", "profiler.cli.main", "attach", "--quiet", "-o", str(tmp_path), "--name", "run"]
    subprocess.run([*command, str(script)], check=True, cwd=tmp_path)
    facts = read_facts(tmp_path / "run")
    assert facts.workers is not None
    assert facts.workers.processes == 2
    assert facts.workers.items == 50
    assert facts.workers.batches >= 2
    assert facts.workers.preprocess_ms > 0
    assert facts.workers.collate_ms > 0
