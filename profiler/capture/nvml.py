"""What the NVIDIA driver says of the GPU that this process uses.

In:  the device's number among the visible ones, or its UUID where torch knows it.
Out: readings as (name, value), those that this GPU or driver supports.
`pynvml` is imported only where the driver's library can be loaded, on the sampler's thread.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

from ..record.vocabulary import Name

_LIBRARY = "libnvidia-ml.so.1"


class Reader:
    """Reads one GPU. `close` lets go of the driver."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._queries: list[Callable[[], list[tuple[Name, int]]]] = [
            lambda: [(Name.GPU_UTILIZATION_PERCENT, nvml.nvmlDeviceGetUtilizationRates(handle).gpu)],
            lambda: [(Name.GPU_MEMORY_USED_BYTES, nvml.nvmlDeviceGetMemoryInfo(handle).used)],
            lambda: [(Name.GPU_POWER_MILLIWATTS, nvml.nvmlDeviceGetPowerUsage(handle))],
            lambda: [(Name.GPU_SM_CLOCK_MHZ, nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))],
            lambda: [(Name.GPU_THROTTLE_REASONS, nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))],
            lambda: [(Name.GPU_TEMPERATURE_C, nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))],
        ]

    def read(self) -> list[tuple[Name, int]]:
        """The readings of this moment; a query that fails is not asked again."""
        readings: list[tuple[Name, int]] = []
        for query in tuple(self._queries):
            try:
                readings += [(name, int(value)) for name, value in query()]
            except (self._nvml.NVMLError, AttributeError):
                self._queries.remove(query)
        return readings

    def close(self) -> None:
        """Let go of the driver. Never raises."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            pass


def driver_exists() -> bool:
    """Whether the driver's library can be loaded."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


def open_reader(device: int | None = None, uuid: str | None = None) -> Reader | None:
    """A reader of this process's GPU; None without a driver, or where none of its GPUs is ours to see.

    Args:
        device: number among the visible devices, as torch counts; by default the local rank, else 0.
        uuid: as "GPU-…", where torch knows it: numbers of torch and of the driver may differ in order.
    """
    if not driver_exists():
        return None
    try:
        import pynvml as nvml
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        return Reader(nvml, _handle(nvml, device, uuid))
    except (nvml.NVMLError, LookupError, ValueError):
        nvml.nvmlShutdown()
        return None


def _handle(nvml: Any, device: int | None, uuid: str | None) -> Any:
    """The driver's handle of our GPU. Raises NVMLError, LookupError or ValueError when there is none."""
    if uuid is not None:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError:  # a slice of a GPU has a UUID of another form
            pass
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else visible_devices(visible)
    if device is None:
        local = os.environ.get("LOCAL_RANK", "")
        device = int(local) if local.isdigit() else 0
        if names is not None and device >= len(names):
            device = 0  # each rank was shown its own GPU only
    name = str(device) if names is None else names[device]
    if name.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    return nvml.nvmlDeviceGetHandleByUUID(name)


def visible_devices(variable: str) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES that count: as the driver reads it, the first invalid one ends the list."""
    names: list[str] = []
    for entry in variable.split(","):
        name = entry.strip()
        if not (name.isdigit() or name.startswith(("GPU-", "MIG-"))):
            break
        names.append(name)
    return names
