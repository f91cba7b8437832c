"""Settings are noted as the user gave them, with the user's line, and asking for them changes nothing."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from profiler.capture import data_wait, forward, optimizer, settings
from profiler.capture.session import CaptureConfig, Session
from profiler.record.reader import of_kind, read_notes


@contextmanager
def recording(tmp_path: Path) -> Iterator[Session]:
    session = Session(CaptureConfig(tmp_path))
    for part in (settings, data_wait, forward, optimizer):
        part.install(session)
    try:
        yield session
    finally:
        assert session.active, "an error of ours ended the recording"
        session.close()


def notes(session: Session, kind: str) -> list[dict[str, Any]]:
    return of_kind(read_notes(session.folder())[0], kind)


def values(session: Session) -> dict[str, Any]:
    return {note["name"]: note["value"] for note in notes(session, "setting")}


def line() -> int:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


def step(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        model(torch.randn(2, 4)).sum().backward()
        optimizer.step()


class Squares(Dataset[int]):
    def __init__(self) -> None:
        self.asked = 0

    def __len__(self) -> int:
        self.asked += 1
        return 12

    def __getitem__(self, index: int) -> int:
        return index**2


class Endless(IterableDataset[int]):
    def __len__(self) -> int:
        raise AssertionError("nobody needs to know")

    def __iter__(self) -> Iterator[int]:
        return iter(range(8))


def test_a_loader_is_noted_with_its_arguments_and_the_line_that_made_it(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        loader, made_at = DataLoader(Squares(), batch_size=3, shuffle=True, drop_last=True), line()
        for _ in range(2):
            list(loader)
    [note] = notes(session, "loader")
    assert (note["dataset"], note["batch_size"], note["num_workers"], note["shuffle"]) == ("Squares", 3, 0, True)
    assert (note["length"], note["iterable"], note["context"]) == (12, False, None)
    assert (note["file"], note["line"]) == (__file__, made_at)
    assert note["extra"]["drop_last"] is True


def test_a_loader_made_before_us_is_noted_where_it_is_used(tmp_path: Path) -> None:
    loader = DataLoader(Squares())
    with recording(tmp_path) as session:
        used_at = line() + 1
        list(loader)
    assert notes(session, "loader")[0]["line"] == used_at


def test_an_iterable_dataset_is_not_asked_for_its_length(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        assert len(list(iter(DataLoader(Endless(), batch_size=None)))) == 8
    [note] = notes(session, "loader")
    assert (note["iterable"], note["length"], note["shuffle"], note["batch_size"]) == (True, None, None, None)


def test_the_default_start_method_is_told_without_being_fixed(tmp_path: Path) -> None:
    code = """
        import multiprocessing, torch
        from pathlib import Path
        from torch.utils.data import DataLoader, TensorDataset
        from profiler.capture import settings
        from profiler.capture.session import CaptureConfig, Session
        session = Session(CaptureConfig(Path("run")))
        settings.describe_loader(session, 0, DataLoader(TensorDataset(torch.zeros(2)), num_workers=1))
        settings.environment.note_standing(session)
        multiprocessing.set_start_method("spawn")  # raises once the default has been fixed
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [folder] = tmp_path.glob("run/rank-*/*")
    assert of_kind(read_notes(folder)[0], "loader")[0]["context"] in ("fork", "forkserver", "spawn")


def test_a_root_is_noted_with_its_size_and_the_line_that_called_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2).to(torch.float64), nn.ReLU())
    model[0].requires_grad_(False)
    with recording(tmp_path) as session:
        called_at = line() + 2
        with pytest.raises(RuntimeError, match="dtype"):
            model(torch.randn(2, 4))
    [note] = notes(session, "root")
    assert (note["name"], note["is_loss"], note["submodules"], note["compiled"]) == ("Sequential", False, 3, False)
    assert (note["parameters"], note["trainable_parameters"]) == (15 + 8, 8)
    assert note["parameter_bytes"] == 15 * 4 + 8 * 8
    assert sorted(note["dtypes"]) == ["float32", "float64"]
    assert (note["file"], note["line"]) == (__file__, called_at)


def test_a_loss_module_is_a_root_that_is_a_loss(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        nn.MSELoss()(torch.ones(2), torch.zeros(2))
    [note] = notes(session, "root")
    assert (note["name"], note["is_loss"], note["parameters"]) == ("MSELoss", True, 0)


def test_a_lazy_module_is_noted_without_raising(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        nn.LazyLinear(3)(torch.randn(2, 4))
    assert notes(session, "root")[0]["parameters"] in (0, 15)


def test_an_optimizer_is_noted_with_its_line_and_the_device(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    with recording(tmp_path) as session:
        adam, made_at = torch.optim.Adam(model.parameters(), foreach=False), line()
        step(model, adam, steps=3)
    [note] = notes(session, "optimizer")
    assert (note["name"], note["foreach"], note["fused"]) == ("Adam", False, None)
    assert (note["tensors"], note["groups"], note["parameters"]) == (2, 1, 10)
    assert (note["file"], note["line"]) == (__file__, made_at)
    [device] = notes(session, "device")
    assert (device["name"], device["asynchronous"]) == ("cpu", False)


class Mine(torch.optim.SGD):
    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)


def test_a_class_of_the_users_own_is_noted_where_it_is_made_not_where_it_is_defined(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    with recording(tmp_path) as session:
        mine, made_at = Mine(model.parameters()), line()
        step(model, mine)
    assert notes(session, "optimizer")[0]["line"] == made_at


def test_what_we_leave_on_objects_does_not_travel_with_them(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    with recording(tmp_path):
        sgd = torch.optim.SGD(model.parameters())
        loader = DataLoader(TensorDataset(torch.zeros(4)))
        list(loader)
        step(model, sgd)
        for thing in (pickle.loads(pickle.dumps(loader)), copy.deepcopy(loader), pickle.loads(pickle.dumps(sgd))):
            assert not [value for name, value in vars(thing).items() if "trainprof" in name and value is not None]


def test_what_stands_is_read_after_the_third_step(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    with recording(tmp_path) as session:
        sgd = torch.optim.SGD(model.parameters())
        step(model, sgd, steps=2)
        assert "torch_num_threads" not in values(session)
        step(model, sgd)
    found = values(session)
    assert found["torch_num_threads"] == torch.get_num_threads()
    assert found["default_dtype"] == "float32"
    assert found["matmul_precision"] == "highest"
    assert found["anomaly_mode"] is False
    assert found["gc"]["enabled"] is True


def test_a_setter_is_noted_with_its_line(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    before = torch.get_num_threads()
    try:
        with recording(tmp_path) as session:
            set_at = line() + 1
            torch.set_num_threads(1)
            step(model, torch.optim.SGD(model.parameters()), steps=3)
    finally:
        torch.set_num_threads(before)
    [note] = [note for note in notes(session, "setting") if note["name"] == "torch_num_threads"]
    assert (note["value"], note["file"], note["line"]) == (1, __file__, set_at)


def test_autocast_is_noted_once_per_kind_and_left_alone_later(tmp_path: Path) -> None:
    original = torch.autocast.__enter__
    with recording(tmp_path) as session:
        for _ in range(100):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                pass
        assert torch.autocast.__enter__ is original
    [note] = [note for note in notes(session, "setting") if note["name"] == "autocast"]
    assert note["value"] == {"device": "cpu", "dtype": "bfloat16", "enabled": True}
    assert note["file"] == __file__


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_mode_around_a_part_of_the_step_is_seen(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    with recording(tmp_path) as session:
        for _ in range(4):
            with torch.autograd.detect_anomaly():
                loss = model(torch.randn(2, 4)).sum()
                loss.backward()
            torch.optim.SGD(model.parameters()).step()
    assert values(session)["anomaly_mode"] is True


def test_a_grad_scaler_and_a_wrapper_are_noted(tmp_path: Path) -> None:
    with recording(tmp_path) as session:
        torch.amp.GradScaler("cpu", enabled=False)
        nn.DataParallel(nn.Linear(2, 2))
    found = values(session)
    assert found["grad_scaler"] is False
    assert found["data_parallel"] == {"class": "DataParallel"}


def test_everything_is_put_back(tmp_path: Path) -> None:
    owners = (DataLoader, torch.optim.Optimizer, torch.autocast, torch.amp.GradScaler, nn.DataParallel, torch)
    before = [dict(vars(owner)) for owner in owners]
    with recording(tmp_path):
        pass
    assert [dict(vars(owner)) for owner in owners] == before


def test_anomaly_mode_that_torchs_compiler_turns_on_is_not_the_users(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "torch._functorch._aot_autograd.graph_capture_wrappers", "torch": torch}
    exec("def traced():\n    with torch.autograd.detect_anomaly(check_nan=False):\n        pass\n", names)
    with recording(tmp_path) as session:
        names["traced"]()
        model = nn.Linear(4, 2)
        step(model, torch.optim.SGD(model.parameters()), steps=3)
    assert values(session)["anomaly_mode"] is False
