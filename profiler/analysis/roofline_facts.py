"""How close the operators come to what the device can do: the part of `Facts` that is a roofline.

Williams, Waterman and Patterson, "Roofline" (2009). An operator does so much arithmetic for each byte that it must
move; up to a certain intensity the memory's bandwidth limits it, beyond it the arithmetic. Bytes are the least that the
operator can move: each argument read once, each result written once.
"""

from __future__ import annotations

from dataclasses import dataclass

ARITHMETIC, MEMORY, SIZE = "arithmetic", "memory", "size"
SHORTEST_S = 2e-6  # a kernel takes as long whatever it does
IN_CACHE = 1.05  # times the memory's bandwidth, above which the data came from a cache


@dataclass(frozen=True, slots=True)
class Peaks:
    """What a device can do at most, by its datasheet or as measured."""

    source: str  # "datasheet of …", "stated", "measured"
    flops_per_s: dict[str, float]  # dense, by number format
    bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class OperatorWork:
    """Calls of one operator with arguments of one shape."""

    operator: str
    shapes: tuple[tuple[int, ...], ...]  # of its tensors
    number_format: str | None  # "fp32", "tf32", "fp16", "bf16", …; None: not recorded
    count: int  # calls
    ms: float  # on the device, or on the CPU's threads; all calls together
    flops: float | None  # of one call; None: not counted for such an operator, or not told by what was recorded
    bytes: float | None  # of one call, at least
    peak_flops_per_s: float | None = None  # for this format; None: not known
    peak_bytes_per_s: float | None = None

    @property
    def tflops(self) -> float | None:
        """Reached, in 10¹² a second."""
        return self.flops * self.count / self.ms / 1e9 if self.flops is not None and self.ms > 0 else None

    @property
    def gbs(self) -> float | None:
        """Moved at least, in 10⁹ bytes a second."""
        return self.bytes * self.count / self.ms / 1e6 if self.bytes is not None and self.ms > 0 else None

    @property
    def intensity(self) -> float | None:
        """Operations a byte."""
        return self.flops / self.bytes if self.flops is not None and self.bytes else None

    @property
    def bound(self) -> str | None:
        """What limits it on this device: "arithmetic", "memory", or that it is too small for either ("size").

        None where that is not known. By bytes alone only operators are told that do next to no arithmetic.
        """
        if self.peak_bytes_per_s is None or self.bytes is None:
            return None
        moving_s, computing_s = self.bytes / self.peak_bytes_per_s, 0.0
        if self.flops is not None:
            if self.peak_flops_per_s is None:
                return None
            computing_s = self.flops / self.peak_flops_per_s
        if max(moving_s, computing_s) < SHORTEST_S:
            return SIZE
        return ARITHMETIC if computing_s >= moving_s else MEMORY

    @property
    def roof_share(self) -> float | None:
        """What it reaches of that limit; None where that is not known, or its data came from a cache."""
        if self.bound == ARITHMETIC and self.tflops is not None and self.peak_flops_per_s:
            return self.tflops * 1e12 / self.peak_flops_per_s
        if self.bound == MEMORY and self.gbs is not None and self.peak_bytes_per_s:
            share = self.gbs * 1e9 / self.peak_bytes_per_s
            return share if share <= IN_CACHE else None
        return None


@dataclass(frozen=True, slots=True)
class Roofline:
    """The operators that take longest."""

    rows: tuple[OperatorWork, ...]  # most time first
    told_share: float  # of the kernels' time (of the operators', on a CPU), in operators whose work is known
    on_device: bool
    peaks: Peaks | None  # None: the device is not known, or a CPU
