"""From trace files to facts: each file is reduced alone, by processes of its own where there are many.

In:  files, and folders of them.
Out: the facts of the rank that is judged; its notices name the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from profiler.analysis.engine import Spread
from profiler.analysis.facts import Facts, TraceFacts
from profiler.analysis.trace.facts import Traced, facts_of
from profiler.analysis.trace.ranks import agreed, late_rank, rank_row, with_clock
from profiler.analysis.trace.together import lay_together
from profiler.errors import ProfError
from profiler.record.layout import RUN_JSON
from profiler.record.trace.read import read_trace
from profiler.record.trace.source import source_reader

ENDINGS = (".json", ".json.gz", ".trace", ".trace.gz")
SPREAD_BYTES = 32 << 20  # in all, from which starting processes pays
MOST_PROCESSES = 16
_EQUAL_SHARE = 0.05  # steps that differ by less are as long as each other


def trace_files(given: Sequence[Path]) -> list[Path]:
    """The files, and those in the folders. Raises ProfError where there are none."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            if (path / RUN_JSON).is_file():
                raise ProfError(f"{path} is a run of prof's, not a folder of traces: use `prof report {path}`.")
            inside = sorted(file for file in path.rglob("*") if file.name.lower().endswith(ENDINGS) and file.is_file())
            if not inside:
                raise ProfError(f"{path} holds no trace: none of its files ends in {' or '.join(ENDINGS[:2])}.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ProfError(f"{path} does not exist.")
    return list(dict.fromkeys(found))


def read_traces(files: Sequence[Path], spread: Spread | None = None) -> Facts:
    """The facts of the lowest rank among these files. Raises ProfError where none of them can be read.

    With `spread` each file is reduced there, without it by processes of this machine where that pays.
    """
    found, failures = _reduced(files, spread)
    if not found:
        raise failures[0]
    chosen = min(found, key=lambda traced: (traced.facts.steps is None, traced.rank is None, traced.rank or 0))
    notices = [str(failure) for failure in failures]
    if len(found) > 1:
        notices.insert(0, _others(chosen, [traced for traced in found if traced is not chosen]))
    facts = chosen.facts
    in_order = sorted(found, key=lambda traced: (traced.rank is None, traced.rank or 0, traced.label))
    trace = facts.trace
    if trace is not None:
        trace = replace(trace, files=tuple(map(str, files)))
        if len(found) > 1:
            place = next(place for place, traced in enumerate(in_order) if traced is chosen)
            trace = _compared(trace, in_order, place)
            notices[1:1] = _of_ranks(trace)
    return replace(
        facts,
        run=replace(facts.run, ranks=max(facts.run.ranks, len({traced.rank for traced in found}))),
        notices=(*notices, *facts.notices),
        trace=trace,
    )


def _of_ranks(trace: TraceFacts) -> list[str]:
    """What comparing the ranks tells, in sentences; nothing where there was nothing to compare."""
    found = []
    waits = [row.late_wait_ms for row in trace.ranks if row.late_wait_ms is not None]
    if trace.transfer_ms is not None and waits:
        found.append(
            f"collectives of the whole job take {trace.transfer_ms:,.3g} ms a step by themselves; in them the ranks "
            f"wait {min(waits):,.3g} to {max(waits):,.3g} ms more until later ranks come"
        )
    clocks = trace.clocks
    if clocks is not None and clocks.aligned:
        found.append(
            f"the ranks' clocks lie up to {clocks.largest_offset_ms:,.3g} ms apart (within {clocks.error_ms:,.2g} ms, "
            f"as their collectives tell) and drift by up to {clocks.largest_drift_ppm:,.3g} ppm"
        )
    if "late rank" in trace.withheld:
        found.append(f"no late rank is named: {trace.withheld['late rank']}")
    return found


def _compared(trace: TraceFacts, ranks: Sequence[Traced], chosen: int) -> TraceFacts:
    """With the rows of all ranks, their clocks, and the one that the others wait for."""
    rows = [rank_row(traced.facts, traced.rank, traced.label) for traced in ranks]
    numbers = [traced.rank for traced in ranks]
    if None in numbers or len(set(numbers)) < len(numbers):
        return replace(trace, ranks=tuple(rows), withheld={"clocks": "these are not traces of one rank each"})
    together = lay_together([traced.exchanges for traced in ranks], max(traced.facts.run.ranks for traced in ranks))
    rows = [with_clock(row, together, place) for place, row in enumerate(rows)]
    withheld = {} if together.clocks.aligned else {"clocks": together.clocks.method}
    if together.transfer_ms is None:
        withheld["waiting"] = (
            "not all ranks of the job were given" if together.steps else "no collective of the whole job was compared"
        )
    late = late_rank(rows)
    denied = agreed(late, rows, together) if late is not None else None
    if denied is not None:
        late, withheld["late rank"] = None, denied
    return replace(
        trace,
        ranks=tuple(rows),
        late=late,
        clocks=together.clocks,
        transfer_ms=together.transfer_ms,
        late_wait_ms=rows[chosen].late_wait_ms,
        withheld=withheld,
    )


def reduce_file(path: Path, folder: Path) -> Traced | ProfError:
    """One file's facts, or what is wrong with it. The user's sources lie in the folder, or beside the file."""
    try:
        return facts_of(read_trace(path), read=source_reader((folder, path.parent)))
    except ProfError as error:
        return error


def _reduced(files: Sequence[Path], spread: Spread | None) -> tuple[list[Traced], list[ProfError]]:
    answers: list[Traced | ProfError]
    reduce = partial(reduce_file, folder=Path.cwd())  # a worker of a cluster stands elsewhere
    if spread is not None:
        answers = spread(reduce, [path.absolute() for path in files])
    elif len(files) > 1 and sum(path.stat().st_size for path in files) >= SPREAD_BYTES:
        workers = min(len(files), os.cpu_count() or 1, MOST_PROCESSES)
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                answers = list(pool.map(reduce, files))
        except BrokenProcessPool as error:
            raise ProfError(
                "a process that read the traces was ended, most likely for want of memory: give fewer files at once."
            ) from error
    else:
        answers = [reduce(path) for path in files]
    found = [answer for answer in answers if isinstance(answer, Traced)]
    return found, [answer for answer in answers if isinstance(answer, ProfError)]


def _named(traced: Traced) -> str:
    return f"rank {traced.rank}" if traced.rank is not None else traced.label


def _others(chosen: Traced, others: Sequence[Traced]) -> str:
    """What was read beside the rank that is judged, and how its steps compare."""
    names = ", ".join(_named(traced) for traced in others[:8]) + (", …" if len(others) > 8 else "")
    sentence = f"{len(others) + 1} traces were read: these are the facts of {_named(chosen)}, beside {names}"
    times = [traced.facts.steps.mean_ms for traced in (chosen, *others) if traced.facts.steps is not None]
    if len(times) < 2 or chosen.facts.steps is None or min(times) <= 0:
        return sentence
    spread = max(times) / min(times) - 1
    if spread < _EQUAL_SHARE:
        return f"{sentence}; their steps are equally long within {100 * spread:.1f} %"
    slowest = max(
        (traced for traced in (chosen, *others) if traced.facts.steps is not None),
        key=lambda traced: traced.facts.steps.mean_ms if traced.facts.steps else 0.0,
    )
    return f"{sentence}; the longest steps, by {100 * spread:.0f} %, are those of {_named(slowest)}"
