"""What the machine could do at most: as stated, or as a matrix product measured here once.

In:  the run folder of a training that has ended, and the setting `peak_tflops`.
Out: `peak` in run.json: {"tflops", "source": "stated" | "measured", "format"}.

A measured figure is kept per machine, device, number format, threads and version of torch, in the user's cache folder.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from profiler.analysis.arithmetic import number_format_of
from profiler.analysis.settings import settings_of
from profiler.capture.matmul import FORMATS
from profiler.record import layout, reader
from profiler.record.reader import of_kind
from profiler.record.run_folder import write_run_json

_TIMEOUT_S = 30


def cache_file() -> Path:
    """Where measured peaks are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "trainprof" / "peaks.json"


def note_peak(run: Path, stated_tflops: float | None, measure: bool) -> None:
    """Write the peak into run.json, where the run counted its operations. Raises OSError when it can't be written."""
    found = _what_ran(run)
    if found is None:
        return
    device, number_format, threads = found
    if stated_tflops is not None:
        peak: dict[str, Any] = {"tflops": stated_tflops, "source": "stated", "format": number_format}
    else:
        tflops = measured_tflops(device, number_format, threads) if measure else None
        if tflops is None:
            return
        peak = {"tflops": tflops, "source": "measured", "format": number_format}
    write_run_json(run, peak=peak)


def _what_ran(run: Path) -> tuple[str, str, int] | None:
    """Kind of device, number format and threads of a training that counted its operations."""
    for directory in layout.process_directories(run):
        notes = reader.read_notes(directory)[0]
        if not any(int(note.get("flops") or 0) > 0 for note in of_kind(notes, "operators")):
            continue
        settings = settings_of(notes, frozenset())
        number_format = number_format_of(settings)
        device: dict[str, Any] = next(reversed(of_kind(notes, "device")), {})
        kind = "cpu" if device.get("name") == "cpu" else str(device.get("type") or "")
        threads = settings.values.get("torch_num_threads") if kind == "cpu" else 0
        if not kind or number_format not in FORMATS:
            return None
        return kind, number_format, threads if isinstance(threads, int) else 0
    return None


def measured_tflops(device: str, number_format: str, threads: int) -> float | None:
    """From the cache, else measured now in a process of its own; None where it can't be."""
    key = "|".join((platform.node(), device, number_format, str(threads), sys.version.split()[0], _torch_version()))
    kept = _kept()
    known = kept.get(key)
    if isinstance(known, dict) and isinstance(known.get("tflops"), (int, float)):
        return float(known["tflops"])
    tflops = _measure(device, number_format, threads)
    if tflops is not None:
        _keep({**kept, key: {"tflops": tflops, "measured_unix_s": round(time.time())}})
    return tflops


def _measure(device: str, number_format: str, threads: int) -> float | None:
    command = [sys.executable, "-m", "profiler.capture.matmul", device, number_format, str(threads)]
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True, env=env)
        tflops = float(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return tflops if tflops > 0 else None


def _torch_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def _kept() -> dict[str, Any]:
    return reader.read_json(cache_file()) or {}


def _keep(peaks: dict[str, Any]) -> None:
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(peaks, indent=1), "utf-8")
        temporary.replace(path)
    except OSError:
        pass  # it is measured again next time
