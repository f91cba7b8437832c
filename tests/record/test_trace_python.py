"""Functions of Python in a trace: whose they are, what is kept of them, and stacks that operators carry."""

from __future__ import annotations

from pathlib import Path

import pytest
from trace_builder import THREAD, TraceBuilder

from profiler.record.trace.python import called, frame_of, is_library, users_frame
from profiler.record.trace.read import read_trace
from profiler.record.trace.recording import Recording
from profiler.record.trace.source import source_reader


def recorded(builder: TraceBuilder, tmp_path: Path) -> Recording:
    return read_trace(builder.write(tmp_path / "made.json"))


def functions(recording: Recording) -> list[tuple[str, bool]]:
    python = recording.python
    return [(recording.names[n], u) for n, u in zip(python.name.tolist(), python.users.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("name", "file", "line", "function"),
    [
        ("train.py(42): main", "train.py", 42, "main"),
        ("/home/a (b)/x(1).py(7): <lambda>", "/home/a (b)/x(1).py", 7, "<lambda>"),
        ("<ipython-input-3-abc>(5): <module>", "<ipython-input-3-abc>", 5, "<module>"),
        ("C:\\work\\train.py(3): step", "C:\\work\\train.py", 3, "step"),
    ],
)
def test_a_function_names_its_file_and_line(name: str, file: str, line: int, function: str) -> None:
    assert frame_of(name) == (file, line, function)


@pytest.mark.parametrize("name", ["<built-in function len>", "nn.Module: Linear_0", "", "train.py(x): main", "f(3)"])
def test_what_names_no_line_is_no_frame(name: str) -> None:
    assert frame_of(name) is None


@pytest.mark.parametrize(
    "file",
    [
        "torch/nn/functional.py", "json/encoder.py", "threading.py", "transformers/trainer.py", "<frozen runpy>",
        "/opt/env/lib/python3.11/site-packages/mypkg/a.py", "<string>", "/usr/lib/python3.10/random.py",
        "torch\\nn\\functional.py",
    ],
)  # fmt: skip
def test_a_package_is_not_the_users(file: str) -> None:
    assert is_library(file)


@pytest.mark.parametrize(
    "file",
    [
        "train.py", "model/blocks.py", "/home/ada/gpt/train.py", "trace.py", "/tmp/ipykernel_77/123.py",
        "<ipython-input-3-abc>", "torchmodel/net.py", "src\\train.py",
    ],
)  # fmt: skip
def test_what_no_package_holds_is_the_users(file: str) -> None:
    assert not is_library(file)


def test_the_users_frame_of_a_stack_is_the_innermost() -> None:
    stack = "torch/nn/functional.py(10): relu;net.py(7): forward;torch/nn/modules/module.py(1): _call;train.py(3): main"
    assert users_frame(stack) == "net.py(7): forward"
    assert users_frame("torch/nn/functional.py(10): relu;threading.py(1): run") == ""


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("<built-in method item of Tensor object at 0x7f1>", "Tensor.item"),
        ("<built-in method relu of type object at 0x7f1>", "relu"),
        ("<built-in function print>", "print"),
        ("json/__init__.py(183): dumps", "json.dumps"),
        ("/env/lib/python3.11/site-packages/wandb/sdk/run.py(4): log", "wandb.sdk.run.log"),
        ("nn.Module: Linear_0", "nn.Module: Linear_0"),
    ],
)
def test_what_is_called_has_one_name_wherever_it_lies(name: str, what: str) -> None:
    assert called(name) == what


def test_the_users_functions_are_kept_and_what_they_call_but_nothing_deeper(tmp_path: Path) -> None:
    builder = TraceBuilder()
    main = builder.python("train.py(3): main", 0, 100)
    dumps = builder.python("json/__init__.py(183): dumps", 1, 50, main)
    encode = builder.python("json/encoder.py(183): encode", 2, 40, dumps)
    builder.python("<built-in function len>", 3, 1, encode)
    for number in range(50):
        builder.python(f"<built-in method item of Tensor object at {hex(number + 16)}>", 60 + number / 10, 0.01, main)
    found = functions(recorded(builder, tmp_path))
    assert found[:2] == [("train.py(3): main", True), ("json.dumps", False)]
    assert found[2:] == [("Tensor.item", False)] * 50


def test_numbers_that_make_no_sense_lose_only_what_is_called(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.python("train.py(3): main", 0, 100, id_=1 << 40)
    builder.python("json/__init__.py(183): dumps", 1, 50, 1 << 40)
    builder.python("train.py(9): other", 60, 30, id_=-5)
    assert functions(recorded(builder, tmp_path)) == [("train.py(3): main", True), ("train.py(9): other", True)]


def test_an_operator_keeps_the_users_frame_of_its_stack(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.event(
        "cpu_op", "aten::item", 1, 1, builder.pid, THREAD,
        **{"Call stack": "/env/site-packages/torch/_tensor.py(3): f;/home/ada/train.py(77): main"},
    )  # fmt: skip
    builder.op("aten::add", 3, 1)
    builder.event("cpu_op", "aten::mul", 5, 1, builder.pid, THREAD, **{"Call stack": 12})
    recording = recorded(builder, tmp_path)
    names = [recording.names[n] if n >= 0 else None for n in recording.operators.frame.tolist()]
    assert names == ["/home/ada/train.py(77): main", None, None]


def test_sources_are_read_from_the_first_folder_that_has_them_and_only_those_of_python(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "train.py").write_text("x = 1\n")
    (tmp_path / "two" / "secret.txt").write_text("no")
    (tmp_path / "one" / "binary.py").write_bytes(b"\xff\xfe\x00")
    read = source_reader((tmp_path / "one", tmp_path / "two"))
    assert read("train.py") == "x = 1\n"
    assert read(str(tmp_path / "two" / "train.py")) == "x = 1\n"
    assert read("secret.txt") is None
    assert read("binary.py") is None
    assert read("missing.py") is None
    assert read("a\0.py") is None
