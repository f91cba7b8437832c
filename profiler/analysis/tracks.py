"""The tracks beside the training thread: the sampler's tape and the tapes of DataLoader workers.

In:  raw events of one such stream, and a moment before which everything is known.
Out: rows, and how many of the events are done with. A group of events (a sample with its readings, a batch with its
     parts) is taken when the next group has begun before that moment, so that how the tape is read makes no difference.
"""

from __future__ import annotations

import numpy as np

from profiler.analysis.asides import Columns
from profiler.analysis.block import Moments
from profiler.analysis.stack import Bools, Ints, fields
from profiler.analysis.tables import ABSENT
from profiler.record.reader import Events
from profiler.record.vocabulary import Kind, Name

COLLATING, COLLATED, FETCHED = range(3)  # after PUSH COLLATE, POP COLLATE, POP FETCH


def _groups(events: Events, begins: Bools, until_ns: int | None) -> tuple[int, Ints, Ints]:
    """Events that belong to complete groups, where these begin, and the group of each of those events."""
    starts = np.flatnonzero(begins)
    if until_ns is None:
        consumed, complete = len(events), len(starts)
    else:
        late = events[starts, 1] >= np.uint64(until_ns)
        known = int(np.argmax(late)) if bool(late.any()) else len(starts)
        complete = max(known - 1, 0)
        consumed = int(starts[complete]) if len(starts) else 0
    starts = starts[:complete]
    number = np.cumsum(begins[:consumed]) - 1
    return consumed, starts, number


def read_sampler(events: Events, moments: Moments, until_ns: int | None) -> tuple[int, Columns, Columns]:
    """(events consumed, samples, readings of resources); readings that are missing are `ABSENT`."""
    codes = fields(events)
    begins = (codes.kind == Kind.SAMPLE) | (codes.kind == Kind.MARK)
    consumed, starts, number = _groups(events, begins, until_ns)
    table: Columns = {"time_ns": events[starts, 1].astype(np.int64)}
    values = np.flatnonzero((codes.kind[:consumed] == Kind.VALUE) & (number >= 0))
    for name in np.unique(codes.name[values]).tolist():
        of_name = values[codes.name[values] == name]
        column = np.full(len(starts), ABSENT, dtype=np.int64)
        column[number[of_name]] = events[of_name, 1].astype(np.int64)
        table[f"value_{name}"] = column
    is_sample = codes.kind[starts] == Kind.SAMPLE
    samples = {name: column[is_sample] for name, column in table.items()}
    samples["site"] = (events[starts[is_sample], 0] >> np.uint64(24)).astype(np.int64)
    samples["label"], samples["step"] = moments.at(samples["time_ns"])
    is_reading = (codes.kind[starts] == Kind.MARK) & (codes.name[starts] == Name.RESOURCES)
    return consumed, samples, {name: column[is_reading] for name, column in table.items()}


def read_worker(events: Events, until_ns: int | None) -> tuple[int, Columns]:
    """(events consumed, batches): times of each batch's parts in ns, what it read, in readings or `ABSENT`."""
    codes = fields(events)
    fetch, collate = codes.name == Name.FETCH, codes.name == Name.COLLATE
    push, pop = codes.kind == Kind.PUSH, codes.kind == Kind.POP
    consumed, starts, number = _groups(events, push & fetch, until_ns)
    context = np.full(consumed, -1, dtype=np.int64)
    for which, word in ((push & collate, COLLATING), (pop & collate, COLLATED), (pop & fetch, FETCHED)):
        context[which[:consumed]] = word
    timed = (push | pop)[:consumed]
    last = np.maximum.accumulate(np.where(timed, np.arange(consumed), 0)) if consumed else context
    context = context[last]
    time = events[:consumed, 1].astype(np.int64)
    count = len(starts)

    def moment(word: int) -> Ints:
        at = np.flatnonzero(timed & (context == word) & (number >= 0))[::-1]
        column = np.full(count, ABSENT, dtype=np.int64)
        column[number[at]] = time[at]  # written backwards: the first one stays
        return column

    def reading(name: Name, words: tuple[int, ...]) -> Ints:
        at = np.flatnonzero((codes.kind[:consumed] == Kind.VALUE) & (codes.name[:consumed] == name) & (number >= 0))
        at = at[np.isin(context[at], words)]
        total = np.bincount(number[at], weights=time[at], minlength=count).astype(np.int64)
        seen = np.bincount(number[at], minlength=count) > 0
        return np.where(seen, total, ABSENT)

    start, collating, collated, fetched = time[starts], moment(COLLATING), moment(COLLATED), moment(FETCHED)
    whole = collating == ABSENT
    main_end = np.where(whole, fetched, collating)
    cpu = np.where(whole, reading(Name.CPU_NS, (FETCHED,)), reading(Name.CPU_NS, (COLLATING,)))
    delay = np.where(whole, reading(Name.RUN_DELAY_NS, (FETCHED,)), reading(Name.RUN_DELAY_NS, (COLLATING,)))
    delay_of_collate = np.maximum(reading(Name.RUN_DELAY_NS, (COLLATED,)), 0)
    everywhere = (COLLATING, COLLATED, FETCHED)
    main = main_end - start
    batches: Columns = {
        "start_ns": start,
        "wall_ns": fetched - start,
        "load_ns": np.where(cpu == ABSENT, ABSENT, np.maximum(main - cpu - np.maximum(delay, 0), 0)),
        "preprocess_ns": np.where(cpu == ABSENT, ABSENT, np.minimum(cpu, main)),
        "collate_ns": np.where(whole | (collated == ABSENT), 0, collated - collating),
        "run_delay_ns": np.where(delay == ABSENT, ABSENT, delay + delay_of_collate),
        "loader": codes.obj[starts].astype(np.int64),
        "value_read_bytes": reading(Name.READ_BYTES, everywhere),
        "value_read_chars": reading(Name.READ_CHARS, everywhere),
        "value_read_calls": reading(Name.READ_CALLS, everywhere),
        "value_items": reading(Name.ITEMS, everywhere),
    }
    done = fetched != ABSENT
    return consumed, {name: column[done] for name, column in batches.items()}
