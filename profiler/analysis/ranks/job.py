"""A run of several ranks: reduce each that was not reduced yet, and merge what they left.

In:  the folders of the training processes, and how one of them is read.
Out: the facts of the typical rank, with the job's in `Facts.ranks`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from profiler.analysis.facts import Facts
from profiler.analysis.folded import Folded
from profiler.analysis.rank_facts import RankFacts
from profiler.analysis.ranks import kept
from profiler.analysis.ranks.flight import laid_in, read_all
from profiler.analysis.ranks.merge import listed, merge
from profiler.analysis.ranks.reduce import rank_facts
from profiler.errors import ProfError
from profiler.record import layout, reader
from profiler.record.reader import of_kind


@dataclass(frozen=True, slots=True)
class Read:
    """One training process as it was read."""

    facts: Facts
    folded: Folded
    notes: list[dict[str, Any]]


ReadOne = Callable[[Path], Read]


def is_job(directories: Sequence[Path]) -> bool:
    """Whether these processes are ranks of one job: they say so, or there is a folder for more than one rank."""
    if len({directory.parent for directory in directories}) > 1:
        return True
    for directory in directories:
        if (directory / layout.RANK_JSON).exists():
            return True
        if any(int(note.get("world_size") or 1) > 1 for note in _rank_notes(directory)):
            return True
    return False


def host_of(directory: Path) -> str | None:
    """The host on which a process was a rank; None for one that was none."""
    return next((str(note.get("host")) for note in reversed(_rank_notes(directory))), None)


def _rank_notes(directory: Path) -> list[dict[str, Any]]:
    """The notes in which the process says its rank; most runs have none, and their notes are not taken apart."""
    try:
        joined = b'"kind": "rank"' in (directory / layout.NOTES).read_bytes()
    except OSError:
        return []
    return of_kind(reader.read_notes(directory)[0], "rank") if joined else []


def read_job(
    directories: Sequence[Path], read_one: ReadOne, shown: int | None = None, dumps: Path | None = None
) -> Facts | None:
    """The job's facts, beside those of the typical rank or of rank `shown`; None where no process of it is a rank.

    `dumps` is a folder of the flight recorder's. Raises ProfError when that rank left no record, or where a dump can't
    be read.
    """
    found: dict[int, list[tuple[RankFacts, Path]]] = {}
    unreadable: dict[int, str] = {}
    for directory in directories:
        rank = reduced(directory, read_one)
        if rank is not None:
            found.setdefault(rank.rank, []).append((rank, directory))
        else:
            why = kept.why_unreadable(directory)
            if why:
                unreadable[int(directory.parent.name.removeprefix("rank-"))] = why
    unreadable = {number: why for number, why in unreadable.items() if number not in found}
    chosen, restarts = one_attempt(found)
    job = merge(
        [rank for rank, _ in chosen.values()],
        read_all(dumps) if dumps is not None else laid_in(directories[0].parents[1]),
        tuple(unreadable),
    )
    if job is None:
        return None
    if shown is not None and shown not in chosen:
        raise ProfError(f"rank {shown} left no record: there are {', '.join(map(str, sorted(chosen)[:16]))}.")
    directories_of = {number: directory for number, (_, directory) in chosen.items()}
    number, whole = _whole(directories_of, read_one, job.typical if shown is None else shown, shown is not None)
    notices = list(job.notices) if shown is None else [f"these are the facts of rank {shown}, beside those of the job"]
    for why in dict.fromkeys(unreadable.values()):
        which = sorted(number for number, each in unreadable.items() if each == why)
        notices.append(f"{listed(which)} can't be read and {'is' if len(which) == 1 else 'are'} left out: {why}")
    if shown is None and number != job.typical:
        notices.append(
            f"the facts of rank {job.typical}, the typical one, can't be read: stages are those of rank {number}"
        )
    if restarts:
        notices.append(restarts)
    job = replace(job, notices=tuple(notices))
    run = replace(whole.run, ranks=job.world_size)
    return replace(whole, run=run, ranks=job, notices=(*notices, *whole.notices))


def one_attempt(
    found: dict[int, list[tuple[RankFacts, Path]]],
) -> tuple[dict[int, tuple[RankFacts, Path]], str]:
    """The process to judge for each rank, all of one attempt of an elastic job; and what was chosen, in words."""
    steps_of: dict[int, int] = {}
    for rank, _ in (one for each in found.values() for one in each):
        steps_of[rank.restart] = steps_of.get(rank.restart, 0) + rank.steps
    attempt = max(steps_of, key=lambda restart: (steps_of[restart], restart), default=0)
    chosen = {
        number: max(those, key=lambda item: (item[0].steps, item[0].duration_s))
        for number, each in found.items()
        if (those := [item for item in each if item[0].restart == attempt])
    }
    attempts = sum(1 for steps in steps_of.values() if steps)
    if attempts > 1:
        return chosen, f"the job was started {attempts} times: attempt {attempt + 1} made most steps, and is judged"
    again = sum(len([1 for rank, _ in each if rank.steps]) > 1 for each in found.values())
    if again:
        return chosen, f"{again} ranks were started more than once: of each, the process with most steps is judged"
    return chosen, ""


def _whole(directories: Mapping[int, Path], read_one: ReadOne, wanted: int, only: bool) -> tuple[int, Facts]:
    """All facts of that rank, or of the nearest other one where they can't be read. Raises ProfError."""
    others = [] if only else sorted(directories.keys() - {wanted}, key=lambda number: abs(number - wanted))
    for number in (wanted, *others):
        directory = directories[number]
        try:
            known = kept.read_rank(directory) is not None
            return number, kept.read_whole(directory) if known else read_one(directory).facts
        except ProfError:
            if number == (others or [wanted])[-1]:
                raise
    raise AssertionError("there is no rank")


def reduced(directory: Path, read_one: ReadOne, over: bool = False) -> RankFacts | None:
    """A process's facts for the job, made where they were not there; None for one that is no rank.

    They are kept once the process has ended, or `over` says that it has.
    """
    known = kept.read_rank(directory)
    if known is not None or not kept.has_record(directory):
        return known
    one = read_one(directory)
    joined = (of_kind(one.notes, "rank") or [{}])[-1]
    if not joined and not one.folded.carry.steps:
        return None  # the launcher itself, or a process that helps
    number = joined.get("rank")
    if not isinstance(number, int):
        number = int(directory.parent.name.removeprefix("rank-"))
    rank = rank_facts(one.facts, one.folded, one.notes, directory, number)
    if over or _has_ended(rank):
        kept.write(directory, rank, one.facts)
    return rank


def _has_ended(rank: RankFacts) -> bool:
    """Whether nothing is written any more. The kernel tells late of stores to a mapped file: its time is no proof."""
    if rank.ended:
        return True
    if rank.host not in ("", socket.gethostname()):
        return False
    try:
        os.kill(rank.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
