"""The NVML reader against a stub of the driver's library, compiled here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from profiler.capture.nvml import visible_devices
from profiler.record.vocabulary import Name

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to compile the stub of libnvidia-ml.so.1")

STUB = r"""
#include <string.h>
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
static const char *uuids[] = {"GPU-aaaa", "GPU-bbbb", "GPU-cccc"};
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "stub"; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (index >= 3) return 2;
    *handle = (void *)(unsigned long)(index + 1);
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    for (unsigned i = 0; i < 3; i++)
        if (!strcmp(uuid, uuids[i])) { *handle = (void *)(unsigned long)(i + 1); return 0; }
    return 6;
}
int nvmlDeviceGetUtilizationRates(void *h, Utilization *u) { u->gpu = 10 * (unsigned long)h; u->memory = 1; return 0; }
int nvmlDeviceGetMemoryInfo(void *h, Memory *m) { m->total = 80; m->free = 30; m->used = 50; return 0; }
#ifndef NO_POWER
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { *mw = 123456; return 0; }
#else
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { return 3; }
#endif
int nvmlDeviceGetClockInfo(void *h, int type, unsigned *mhz) { *mhz = type == 1 ? 1410 : 0; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, unsigned long long *r) { *r = 4; return 0; }
int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *r) { *r = 4; return 0; }
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *c) { *c = 65; return 0; }
int nvmlDeviceGetTemperatureV(void *h, struct { unsigned version; int sensor; int c; } *t) { t->c = 65; return 0; }
"""

READ = """
import json, sys
from profiler.capture.nvml import open_reader
reader = open_reader(**json.loads(sys.argv[1]))
print(json.dumps(None if reader is None else [reader.read(), reader.read()]))
if reader is not None:
    reader.close()
print("pynvml" in sys.modules)
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    source = folder / "stub.c"
    source.write_text(STUB)
    for name, flags in (("full", []), ("no-power", ["-DNO_POWER"])):
        (folder / name).mkdir()
        library = folder / name / "libnvidia-ml.so.1"
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", *flags, "-o", library, source], check=True)
    return folder


def read(library: Path | None, environment: dict[str, str] | None = None, **arguments: Any) -> tuple[Any, bool]:
    """What `open_reader(**arguments)` reads twice in a process of its own, and whether it imported pynvml."""
    set_here = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK")
    inherited = {name: value for name, value in os.environ.items() if name not in set_here}
    variables = {**inherited, **(environment or {}), "LD_LIBRARY_PATH": str(library or "")}
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(arguments)], env=variables, capture_output=True, text=True, check=True
    )
    readings, imported = done.stdout.splitlines()
    return json.loads(readings), imported == "True"


def utilization(readings: Any) -> int:
    return int(dict(map(tuple, readings[0]))[Name.GPU_UTILIZATION_PERCENT])


def test_all_readings_of_the_gpu_are_read(stub: Path) -> None:
    readings, _ = read(stub / "full")
    assert dict(map(tuple, readings[0])) == {
        Name.GPU_UTILIZATION_PERCENT: 10,
        Name.GPU_MEMORY_USED_BYTES: 50,
        Name.GPU_POWER_MILLIWATTS: 123456,
        Name.GPU_SM_CLOCK_MHZ: 1410,
        Name.GPU_THROTTLE_REASONS: 4,
        Name.GPU_TEMPERATURE_C: 65,
    }
    assert readings[0] == readings[1]


def test_a_reading_that_the_gpu_lacks_is_left_out(stub: Path) -> None:
    readings, _ = read(stub / "no-power")
    assert Name.GPU_POWER_MILLIWATTS not in dict(map(tuple, readings[1]))
    assert len(readings[0]) == len(readings[1]) == 5


@pytest.mark.parametrize(
    ("environment", "arguments", "gpu"),
    [
        ({"LOCAL_RANK": "2"}, {}, 3),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, {}, 3),
        ({"CUDA_VISIBLE_DEVICES": "2,0", "LOCAL_RANK": "1"}, {}, 1),
        ({"CUDA_VISIBLE_DEVICES": "1", "LOCAL_RANK": "3"}, {}, 2),  # a launcher that shows each rank its own
        ({"CUDA_VISIBLE_DEVICES": "GPU-cccc,0"}, {}, 3),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, {"device": 1}, 1),
        ({}, {"device": 0, "uuid": "GPU-bbbb"}, 2),
        ({}, {"device": 2, "uuid": "GPU-unknown"}, 3),
    ],
)
def test_the_gpu_of_this_process_is_read(
    stub: Path, environment: dict[str, str], arguments: dict[str, Any], gpu: int
) -> None:
    readings, _ = read(stub / "full", environment, **arguments)
    assert utilization(readings) == 10 * gpu


@pytest.mark.parametrize("hidden", ["", "-1", "7"])
def test_a_gpu_that_is_hidden_or_absent_is_not_read(stub: Path, hidden: str) -> None:
    assert read(stub / "full", {"CUDA_VISIBLE_DEVICES": hidden})[0] is None


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a driver")
def test_without_a_driver_there_is_no_reader_and_pynvml_is_not_imported() -> None:
    assert read(None) == (None, False)


def test_the_first_invalid_entry_ends_the_list_of_visible_devices() -> None:
    assert visible_devices("1, 0,-1,2") == ["1", "0"]
    assert visible_devices("") == []
