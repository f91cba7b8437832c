"""What was sent: counted in memory by kind, group, type and size of message, and noted now and then.

A row is a list, `[calls, bytes, blocked ns, shortest ns, asynchronous calls, times, every]`: the training thread adds
to it. `times` are the blocked ns of calls whose numbers are multiples of `every`, which doubles when they have become
too many: ranks that made the same calls have kept the same ones, so that they can be laid side by side.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from ..record.vocabulary import COLLECTIVES
from .session import Session

Row = list[Any]
CALLS, BYTES, BLOCKED, SHORTEST, ASYNCHRONOUS, TIMES, EVERY = range(7)
UNKNOWN_NS = 1 << 62
NOBODY = -1  # the peer of what is no message to one rank
_FIRST_NOTE = 4
_NOTE_EVERY = 256  # steps, at most
_MOST_ROWS = 512
_MOST_RANKS = 64  # of a group, in its note
_MOST_TIMES = 64  # of a row
_DUMP_VARIABLES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
_MOST_PENDING = 4096
Pending = tuple[int, int, Row]  # PUSH and POP of a wait, and the row that it counts in


class Traffic:
    """The counts of one process."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rows: dict[tuple[int, int, Any, int, int], Row] = {}
        self.inside = False  # of a collective: those that it is made of do not count
        self.pending: dict[int, Pending] = {}  # by the identity of a Work
        self._groups: dict[int, int] = {}
        session.on_step(self._note_now_and_then, first=_FIRST_NOTE)
        self._next_times = 0  # step from which a note holds single times, too
        session.on_end(self._note_all)

    def row(self, kind: int, group: int, dtype: Any, size_bytes: int, peer: int = NOBODY) -> Row:
        """The row of a message, of those to one rank if it has a `peer`. Sizes are parted by powers of two."""
        key = (kind, group, dtype, size_bytes.bit_length(), peer)
        row = self.rows.get(key)
        if row is None:
            row = [0, 0, 0, UNKNOWN_NS, 0, [], 1]
            if len(self.rows) < _MOST_ROWS:
                self.rows[key] = row
        return row

    def is_pending(self, work: int, how: Pending) -> None:
        """Remember of what the wait for a Work will be."""
        if len(self.pending) < _MOST_PENDING:
            self.pending[work] = how

    def group(self, group: Any) -> int:
        """The number of a process group, None for the default one; described at first sight."""
        number = self._groups.get(id(group))
        if number is None:
            world = distributed.group.WORLD if distributed.is_initialized() else None
            same = world if group is None else None if group is world else group
            number = self._groups.get(id(same))
            if number is None:
                number = len(self._groups)
                self._describe(number, None if group is world else group)
            self._groups[id(group)] = number
        return number

    def forget_groups(self) -> None:
        """Groups were destroyed: another may get the address of one of them."""
        self._groups.clear()

    def _describe(self, number: int, group: Any) -> None:
        with_rank = distributed.is_available() and distributed.is_initialized()
        if not with_rank:
            return
        ranks = distributed.get_process_group_ranks(group if group is not None else distributed.group.WORLD)
        self.session.note(
            "group",
            id=number,
            backend=str(distributed.get_backend(group)),
            size=len(ranks),
            ranks=ranks[:_MOST_RANKS],
            description=getattr(group, "group_desc", None) if group is not None else "default",
        )

    def _note_now_and_then(self) -> int:
        steps = self.session.steps
        times = steps >= self._next_times
        if times:
            self._next_times = 2 * steps
        self.note(times)
        return steps + min(3 * steps, _NOTE_EVERY)

    def _note_all(self) -> None:
        self.note(times=True)

    def note(self, times: bool = False) -> None:
        """Write all counts, and times of single calls if asked; a later note replaces an earlier one."""
        if self.rows:
            self.session.note(
                "traffic",
                steps=self.session.steps,
                rows=[
                    {
                        "kind": COLLECTIVES[kind],
                        "group": group,
                        "dtype": _dtype(dtype),
                        "calls": row[CALLS],
                        "bytes": row[BYTES],
                        "blocked_ns": row[BLOCKED],
                        "shortest_ns": row[SHORTEST] if row[SHORTEST] < UNKNOWN_NS else None,
                        "asynchronous": row[ASYNCHRONOUS],
                        **({"peer": peer} if peer != NOBODY else {}),
                        **({"every": row[EVERY], "times_ns": row[TIMES]} if times and row[TIMES] else {}),
                    }
                    for (kind, group, dtype, _, peer), row in self.rows.items()
                ],
            )


def took(row: Row, took_ns: int) -> None:
    """Count a call that blocked for so long, after it was counted itself."""
    row[BLOCKED] += took_ns
    if took_ns < row[SHORTEST]:
        row[SHORTEST] = took_ns
    if not row[CALLS] % row[EVERY]:
        times = row[TIMES]
        times.append(took_ns)
        if len(times) == _MOST_TIMES:
            row[TIMES] = times[1::2]
            row[EVERY] *= 2


def _dtype(dtype: Any) -> str | None:
    return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else None


def note_rank(session: Session) -> None:
    """Say which rank this process is, of how many, and on what host: its clock is the host's since it booted."""
    session.note(
        "rank",
        rank=distributed.get_rank(),
        world_size=distributed.get_world_size(),
        local_rank=os.environ.get("LOCAL_RANK"),
        restart=os.environ.get("TORCHELASTIC_RESTART_COUNT"),
        backend=str(distributed.get_backend()),
        host=socket.gethostname(),
        boot_id=_boot_id(),
        flight_recorder=_dump_prefixes(),
    )


def _dump_prefixes() -> list[str]:
    """Where torch's flight recorder writes when a collective times out: the rank's number follows."""
    given = [os.environ[name] for name in _DUMP_VARIABLES if os.environ.get(name)]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    usual = [str(cache / "torch" / "comm_lib_trace_rank_"), "/tmp/nccl_trace_rank_"]
    return [str(Path(prefix).absolute()) for prefix in given or usual]


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None
