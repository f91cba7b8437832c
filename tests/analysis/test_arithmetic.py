"""Operations, rate and utilisation from counts that are known, and when they are withheld."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tape_builder import Training, write_run

from profiler.analysis import peak
from profiler.analysis.arithmetic import arithmetic_of, number_format_of
from profiler.analysis.build import read_facts
from profiler.analysis.facts import Arithmetic, RootSettings, Settings
from profiler.capture.matmul import best_tflops
from profiler.cli.report import command as report_command
from profiler.record.run_folder import write_run_json
from profiler.report.summary import summary
from profiler.rules.catalogue import judge
from profiler.rules.verdict import Result

CPU = {"kind": "device", "name": "cpu", "type": "cpu", "asynchronous": False, "capacity_bytes": None}
WINDOW = {"kind": "operators", "rows": [], "steps": 3, "flops": 6_000_000_000}
MODEL = RootSettings(0, "Net", False, 1000, 4000, 1000, ("float32",), 3, False, None, {"devices": ["cuda"]})


def settings(*roots: RootSettings, **values: Any) -> Settings:
    return Settings((), roots or (MODEL,), (), values, {})


def test_rate_and_utilisation_are_of_the_mean_step() -> None:
    found = arithmetic_of(WINDOW, 4.0, settings(), {"tflops": 2.0, "source": "stated"})
    assert isinstance(found, Arithmetic)
    assert found.flops_per_step == 2e9
    assert found.tflops == pytest.approx(0.5)
    assert (found.mfu, found.peak_tflops, found.peak_source) == (pytest.approx(0.25), 2.0, "stated")


def test_without_a_peak_or_beyond_it_there_is_no_utilisation() -> None:
    for given in (None, {"tflops": 0.4, "source": "measured"}):
        found = arithmetic_of(WINDOW, 4.0, settings(), given)
        assert isinstance(found, Arithmetic)
        assert found.mfu is None


@pytest.mark.parametrize(
    ("note", "its_settings", "why"),
    [
        (None, settings(), "no step was looked at"),
        ({**WINDOW, "flops": 0}, settings(), "no matrix product"),
        ({"kind": "operators", "steps": 3}, settings(), "no matrix product"),
        (WINDOW, settings(compile={"mode": None}), "compiled"),
        (WINDOW, settings(replace(MODEL, compiled=True)), "compiled"),
    ],
)
def test_what_was_not_counted_is_not_told(note: dict[str, Any] | None, its_settings: Settings, why: str) -> None:
    found = arithmetic_of(note, 4.0, its_settings, {"tflops": 2.0, "source": "stated"})
    assert isinstance(found, str)
    assert why in found


def test_the_number_format_is_that_of_most_products() -> None:
    assert number_format_of(settings()) == "float32"
    assert number_format_of(settings(matmul_precision="high")) == "tf32"
    assert number_format_of(settings(autocast={"enabled": True, "dtype": "bfloat16"})) == "bfloat16"
    assert number_format_of(settings(autocast={"enabled": False, "dtype": "bfloat16"})) == "float32"
    assert number_format_of(settings(replace(MODEL, dtypes=("float16",)))) == "float16"
    on_cpu = replace(MODEL, extra={"devices": ["cpu"]})
    assert number_format_of(settings(on_cpu, matmul_precision="high")) == "float32"


def run(folder: Path) -> Path:
    tape = Training()
    for _ in range(40):
        tape.step()
    write_run(folder, [tape], [CPU, {**WINDOW, "flops": 3_000_000}])
    return folder


def test_a_stated_peak_reaches_the_summary(tmp_path: Path) -> None:
    peak.note_peak(run(tmp_path / "run"), 0.01, measure=False)
    facts = read_facts(tmp_path / "run")
    device = summary(Result(facts, judge(facts)))["device"]
    assert device["peak_tflops"] == 0.01
    assert device["peak_source"] == "stated"
    assert device["mfu"] == pytest.approx(1e6 / 1.19e-3 / 1e12 / 0.01, rel=1e-3)
    assert device["busy_share"] is None


def test_a_peak_that_is_stated_later_counts_when_the_report_is_rendered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(tmp_path / "run")
    (tmp_path / "pyproject.toml").write_text("[tool.prof]\npeak_tflops = 0.02\n")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(report_command, [str(made), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["device"]["peak_tflops"] == 0.02


def test_a_measured_peak_is_kept_for_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked: list[tuple[str, str, int]] = []

    def measure(device: str, number_format: str, threads: int) -> float:
        asked.append((device, number_format, threads))
        return 0.5

    monkeypatch.setattr(peak, "_measure", measure)
    for name in ("first", "second"):
        peak.note_peak(run(tmp_path / name), None, measure=True)
        written = json.loads((tmp_path / name / "run.json").read_text())["peak"]
        assert written == {"tflops": 0.5, "source": "measured", "format": "float32"}
    assert asked == [("cpu", "float32", 0)]


def test_nothing_is_measured_unless_asked_or_where_nothing_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*arguments: Any) -> float:
        raise AssertionError("measured")

    monkeypatch.setattr(peak, "measured_tflops", measure)
    peak.note_peak(run(tmp_path / "run"), None, measure=False)
    assert "peak" not in json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "empty").mkdir()
    write_run_json(tmp_path / "empty", name="empty")
    peak.note_peak(tmp_path / "empty", None, measure=True)


def test_a_benchmark_that_fails_gives_no_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert peak.measured_tflops("cuda", "bfloat16", 0) is None
    assert not peak.cache_file().exists()
    peak.cache_file().parent.mkdir(parents=True)
    peak.cache_file().write_text("{ damaged")
    monkeypatch.setattr(peak, "_measure", lambda *arguments: 0.25)
    assert peak.measured_tflops("cpu", "float32", 2) == 0.25


def test_the_benchmark_runs_in_a_process_of_its_own() -> None:
    command = [
        sys.executable,
        "-c",
        "from profiler.capture import matmul as m; print(m.best_tflops('cpu','float32',1,0.02))",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0


def test_the_benchmark_stops_at_small_products_where_the_processor_emulates_a_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, sizes = [0.0], []

    def slow_product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
        sizes.append(len(left))
        now[0] += 2 * len(left) ** 3 / 1e9  # at 1 GFLOP/s

    monkeypatch.setattr(torch, "mm", slow_product)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    threads = torch.get_num_threads()
    assert best_tflops("cpu", "bfloat16", threads) == pytest.approx(0.001)
    assert max(sizes) == 512  # 1024 would take two seconds for one product
    assert now[0] < 1


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown number format"):
        best_tflops("cpu", "float8", 1)
