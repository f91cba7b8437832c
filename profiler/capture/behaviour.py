"""Whether the steps of a run have changed for long: then it is worth another deep look.

Asked every two seconds or so; a look costs one reading of the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

CHANGED = 0.20  # of the step's time
_BLOCKS = 5  # stretches of steps behind either side of a comparison
_BLOCK_NS = 2_000_000_000
_FEWEST_STEPS = 16
_NEVER_STEPS = 1 << 20


class Pace:
    """Mean step times of stretches of the run: the first ones say what is usual, the newest what is now.

    A stretch holds whatever lies between its steps (an evaluation, a checkpoint), so the median of five is compared,
    and all five must lie beyond the limit, on the same side.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._at: tuple[int, int] | None = None  # step, time
        self._usual: list[float] = []
        self._newest: list[float] = []

    def look(self, steps: int) -> int:
        """Take in the steps since the last look; the step at which to look again."""
        now_ns = self._clock()
        if self._at is None:
            self._at = (steps, now_ns)
            return steps + _FEWEST_STEPS
        done, took_ns = steps - self._at[0], now_ns - self._at[1]
        self._at = (steps, now_ns)
        if done <= 0 or took_ns <= 0:
            return steps + _FEWEST_STEPS
        mean_ns = took_ns / done
        if took_ns >= _BLOCK_NS / 2:
            if len(self._usual) < _BLOCKS:
                self._usual.append(mean_ns)
            else:
                self._newest = [*self._newest[1 - _BLOCKS :], mean_ns]
        return steps + min(_NEVER_STEPS, max(_FEWEST_STEPS, round(_BLOCK_NS / mean_ns)))

    @property
    def changed(self) -> bool:
        """Whether all newest stretches are faster, or all slower, than usual by more than the limit."""
        if len(self._newest) < _BLOCKS:
            return False
        usual = median(self._usual)
        ratios = [mean / usual for mean in self._newest]
        return min(ratios) > 1 + CHANGED or max(ratios) < 1 - CHANGED

    @property
    def step_ms(self) -> float | None:
        """Of the newest stretches; None before there are any."""
        return median(self._newest) / 1e6 if self._newest else None
