"""What the DataLoader's workers did per batch.

In:  the batch table, the samples of workers, and the settings of the loader that feeds the training.
Out: `WorkerFacts`, or why there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from profiler.analysis import noise
from profiler.analysis.asides import Columns
from profiler.analysis.facts import LineTime, LoaderSettings, StageFacts, StepFacts, WorkerFacts
from profiler.analysis.folded import Folded
from profiler.analysis.lines import Places, ReadLine, rank_lines
from profiler.analysis.measured import NS_PER_MS, Measured
from profiler.analysis.noise import Floats
from profiler.analysis.stack import Bools
from profiler.analysis.tables import ABSENT
from profiler.analysis.worker_looks import batch_contents, item_facts, process_facts

_ANY_LOADER = 0xFFFF
_FEW_BATCHES = 8


def worker_facts(
    folded: Folded,
    measured: Measured,
    steps: StepFacts,
    data_wait: StageFacts | None,
    loader: LoaderSettings | None,
    training_pid: int,
    places: Places,
    read_line: ReadLine,
    notes: Sequence[dict[str, Any]] = (),
) -> WorkerFacts | str:
    """Facts of the workers that feed the training loop, or the reason why there are none."""
    if data_wait is None:
        return "no DataLoader fed the training loop"
    batches = folded.batches.columns()
    if not batches:
        return "what the DataLoader did per batch was not recorded"
    trained = folded.carry.known.trained_loaders
    chosen = _of_training(batches, trained) & (batches["load_ns"] != ABSENT)
    if not bool(chosen.any()):
        return "no batch of the training's DataLoader was recorded with its CPU time"
    start, end = measured.window_ns
    steady = chosen & (batches["start_ns"] >= start) & (batches["start_ns"] <= end)
    if int(np.count_nonzero(steady)) >= _FEW_BATCHES:
        chosen = steady
    of_threads = bool((batches["pid"][chosen] == training_pid).all())
    processes = 0 if of_threads else loader.num_workers if loader else len(folded.worker_pids)
    batch_ms = _mean(batches, chosen, "wall_ns") / NS_PER_MS
    busy_ms = batch_ms * steps.batches / max(processes, 1)
    return WorkerFacts(
        processes=processes,
        batches=int(batches["weight"][chosen].sum()),
        load_ms=_median_ms(batches, chosen, "load_ns"),
        preprocess_ms=_median_ms(batches, chosen, "preprocess_ns"),
        collate_ms=_median_ms(batches, chosen, "collate_ns"),
        run_delay_ms=_median_ms(batches, chosen & (batches["run_delay_ns"] != ABSENT), "run_delay_ns"),
        batch_ms=batch_ms,
        batch_p95_ms=noise.quantile(_ms(batches, chosen, "wall_ns"), batches["weight"][chosen], 0.95),
        busy_share=min(1.0, busy_ms / steps.mean_ms) if steps.mean_ms > 0 else 0.0,
        read_bytes=_mean_reading(batches, chosen, "value_read_bytes"),
        items=_mean_reading(batches, chosen, "value_items"),
        lines=_lines(folded, data_wait, processes, batch_ms, places, read_line),
        read_chars=_mean_reading(batches, chosen, "value_read_chars"),
        read_calls=_mean_reading(batches, chosen, "value_read_calls"),
        item_facts=item_facts(notes, trained),
        contents=batch_contents(notes, trained),
        process_facts=process_facts(notes, trained),
    )


def _of_training(batches: Columns, trained: frozenset[int]) -> Bools:
    """Batches of loaders that feed the training."""
    return np.isin(batches["loader"], [*trained, _ANY_LOADER])


def _ms(batches: Columns, chosen: Bools, name: str) -> Floats:
    return batches[name][chosen] / NS_PER_MS


def _median_ms(batches: Columns, chosen: Bools, name: str) -> float:
    return noise.median(_ms(batches, chosen, name), batches["weight"][chosen]) if bool(chosen.any()) else 0.0


def _mean(batches: Columns, chosen: Bools, name: str) -> float:
    return float(np.average(batches[name][chosen], weights=batches["weight"][chosen]))


def _mean_reading(batches: Columns, chosen: Bools, name: str) -> float | None:
    """Mean of a reading where it was taken."""
    if name not in batches:  # an older record
        return None
    taken = chosen & (batches[name] != ABSENT)
    return _mean(batches, taken, name) if bool(taken.any()) else None


def _lines(
    folded: Folded,
    data_wait: StageFacts,
    processes: int,
    batch_ms: float,
    places: Places,
    read_line: ReadLine,
) -> tuple[LineTime, ...]:
    """The lines that make batches: as seen in the workers, or in `data_wait` where the training thread makes them."""
    samples = folded.worker_samples.columns()
    if processes and samples:
        return rank_lines(samples["site"], samples["weight"], batch_ms, places, read_line)
    if processes:
        return ()
    return tuple(
        LineTime(
            line.site,
            line.leaf,
            line.samples,
            line.share_of_stage,
            line.share_of_stage * batch_ms,
            line.source,
        )
        for line in data_wait.lines
    )
