"""One recording in one process: where events go, whose they are, and how it all stops.

A hook is given the session and uses four things: `session.owner`, the thread whose events count, `session.record`
on the hot path, `session.note(…)` for what is said once, and `session.fail(where, error)` when it has an error of
its own: that switches the whole recording off, with one line on stderr, and the training goes on.

`record((code, time))` keeps an event in memory (`gate.py`): in the middle of a training's caches a store into the
tape's mapped pages costs about a microsecond, this a tenth of it. The sampler's thread, and every so many steps the
training's, moves them to the tape; what a SIGKILL can take is what came since: one or two tenths of a second as a
rule, above a second where looks are dear.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, get_ident
from types import CellType, FunctionType
from typing import Any

from ..record.layout import rank_directory
from ..record.notes import Notes
from ..record.tape import Tape
from ..record.vocabulary import Kind, Name, Optimizer, code
from .callsite import caller
from .gate import NEVER, Gate, has_short_way, plain
from .patches import Patches

_OPTIMIZER_STEP = code(Kind.PUSH, Name.OPTIMIZER, Optimizer.STEP)
CLOSED = -1  # no thread's identity
_REDUCE_EVERY = 24  # segments, of which the tape keeps 128 by default
_DRAIN_STEPS = 128
_LONG_BUFFER = 8192
_serial = itertools.count()
_STEP_MASK = (1 << 32) - 1  # kind, name and detail: the object may be any


@dataclass(frozen=True)
class CaptureConfig:
    """What the launcher or the context manager asked for."""

    run_directory: Path
    deep: bool = True
    sample_interval_ms: float = 10.0
    max_disk_mb: int = 256
    memory_history: bool = False
    followed: bool = False  # `prof attach` reduces the record while we write it
    late: bool = True  # optimizers and schedulers may be older than the hooks

    @classmethod
    def from_options(cls, run_directory: str | Path, options: dict[str, Any]) -> CaptureConfig:
        """From the options that the launcher hands to its children; those it does not know are left out."""
        names = ("deep", "sample_interval_ms", "max_disk_mb", "memory_history", "followed", "late")
        known = {name: options[name] for name in names if name in options}
        return cls(Path(run_directory), **known)


class Session:
    """The recording of one process. Opened lazily: no folder exists before the first event."""

    def __init__(self, config: CaptureConfig, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.config = config
        self.clock = clock
        self.patches = Patches(self.follow_record)
        self._record_cells: list[CellType] = []  # where hooks keep `record`
        self.key = f"_trainprof_{next(_serial)}"  # for what we leave on other people's objects
        self.active = True
        self.role = "training"  # or "worker": a DataLoader's process
        self._folder: Path | None = None
        self._closers: list[Callable[[], None]] = []
        self._enders: list[Callable[[], None]] = []
        self.starting_loader = 0xFFFF  # the DataLoader whose iterator is being made
        self.epoch_listeners: list[Callable[[], None]] = []
        self.optimizer_listeners: list[Callable[[], None]] = []
        self.gate = Gate()
        self.gate.on_due = self.call_listeners
        self._listeners: list[tuple[int, Callable[[], int | None]]] = []
        self._began_training: list[Callable[[], None]] = []
        self.owner: int | None = None  # identity of the thread whose events count; None: the first to come
        self.guarded = False  # the compiler is in use: hooks must look whether it traces them
        self._failure: tuple[str, BaseException] | None = None
        self._failing = False
        self._draining = Lock()
        self.plain_record: Callable[[tuple[int, int]], None] = (
            self.gate.record
        )  # one call: no interruption parts the two
        self.record = self.plain_record
        self.opened_by_context = False
        self.steps_at_mark = 0
        self._stages: dict[str, tuple[int, int]] = {}
        self._seen_calls: set[tuple[str, int]] = set()
        self.notes = Notes(self.folder)
        segments = max(4, config.max_disk_mb // 2)
        self.tape = Tape(
            self.folder,
            "thread-0",
            limit_segments=segments,
            clock=clock,
            on_error=self._disk_failed,
            on_roll=None if config.followed else self._reduce_now_and_then,
        )
        self.on_step(self._drain_now_and_then, first=_DRAIN_STEPS)

    # where things go

    @property
    def steps(self) -> int:
        """Optimizer steps (or marks) of the thread that trains."""
        return int(self.gate.steps)

    def follow_record(self, hook: Any, depth: int = 3) -> None:
        """A hook keeps `record` in its closure: remember where, for `use_record`. Whatever is no hook is left alone."""
        hook = plain(hook)
        for cell in getattr(hook, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # not filled yet
                kept = cell.cell_contents
                if kept is self.record:
                    if all(cell is not known for known in self._record_cells):
                        self._record_cells.append(cell)
                elif depth and isinstance(kept, FunctionType) and kept.__module__ == hook.__module__:
                    self.follow_record(kept, depth - 1)

    def use_record(self, record: Callable[[tuple[int, int]], None] | None) -> None:
        """Have all hooks call this one for `record` from now on, and go the long way; None: the plain one.

        Hooks keep `record` where a call finds it fastest, in cells of their closures, so those are filled anew: about
        40 ns each, and nothing for a hook that runs.
        """
        self.record = record or self.plain_record
        for cell in self._record_cells:
            cell.cell_contents = self.record
        self._open_short_way()

    def write(self, event_code: int) -> None:
        """Record an event of now, where it need not be fast."""
        if get_ident() == self.owner or self.owns(event_code):
            self.record((event_code, self.clock()))

    def drain(self) -> None:
        """Move what was recorded to the tape; from any thread."""
        if not self._draining.acquire(False):
            return
        try:
            words = self.gate.take()
            if words:
                self.tape.write_words(words)
        finally:
            self._draining.release()

    def drain_if_long(self) -> None:
        """Where no step may come for long, and so nobody drains."""
        if len(self.gate) > _LONG_BUFFER:
            self.drain()

    def _drain_now_and_then(self) -> int:
        self.drain()
        return self.steps + _DRAIN_STEPS

    def folder(self) -> Path:
        """This process's folder, made on first use. Raises OSError."""
        if self._folder is None:
            folder = rank_directory(self.config.run_directory, current_rank()) / str(os.getpid())
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = folder
        return self._folder

    def stream(self, name: str, limit_segments: int = 16, segment_bytes: int = 1 << 20) -> Tape:
        """A further tape of this process, e.g. the sampler's."""
        return Tape(
            self.folder,
            name,
            limit_segments=limit_segments,
            segment_bytes=segment_bytes,
            clock=self.clock,
            on_error=self._disk_failed,
        )

    def write_safely(self, event_code: int, where: str) -> None:
        """Write where an error of ours must not hide the user's exception."""
        try:
            self.write(event_code)
        except Exception as error:
            self.fail(where, error)

    def note(self, kind: str, **fields: Any) -> None:
        """Say something once. Never raises: a full disk switches us off."""
        if not self.active:
            return
        try:
            self.notes.write(kind, **fields)
        except OSError as error:
            self._disk_failed(error)

    def _reduce_now_and_then(self, segments: int) -> None:
        """Nobody follows us: every so many segments, have a process of its own reduce the older ones."""
        if segments % _REDUCE_EVERY:
            return
        from .reduce import start_reducing

        start_reducing(self.folder())

    def note_call(self, stage: str, detail: int, depth: int = 2) -> None:
        """Note the user's line that enters a stage; once per stage and detail. `depth` as in `caller`."""
        if (stage, detail) in self._seen_calls:
            return
        self._seen_calls.add((stage, detail))
        site = caller(depth + 1)
        if site is not None:
            self.note("call", stage=stage, detail=detail, **site)

    def stage_codes(self, name: str, known: int | None) -> tuple[int, int]:
        """PUSH and POP codes of a stage that the user names; a name of their own is noted once."""
        codes = self._stages.get(name)
        if codes is None:
            number = 0 if known is not None else len(self._stages)
            about = known if known is not None else Name.USER_STAGE
            codes = self._stages[name] = (code(Kind.PUSH, about, 0, number), code(Kind.POP, about, 0, number))
            if known is None:
                self.note("stage_name", id=number, name=name)
        return codes

    # whose events count

    def owns(self, event_code: int) -> bool:
        """Whether the calling thread's events count from now on: it is the first, or it steps an optimizer first.

        For a thread other than `owner`; kept off the hot path.
        """
        if not self.active or self.role != "training":
            return False
        if self.owner is not None and not (self.steps == 0 and event_code & _STEP_MASK == _OPTIMIZER_STEP):
            return False
        self._owned_by(get_ident())
        return True

    def _owned_by(self, owner: int | None) -> None:
        self.owner = owner
        self._open_short_way()

    def _open_short_way(self) -> None:
        """Who may pass the hooks by the short way: the owner, unless each call must look for the compiler."""
        owned = self.active and self.owner is not None and self.owner != CLOSED
        short = owned and self.record is self.plain_record and has_short_way(self)
        self.gate.owner = self.owner if short else 0

    def guard(self) -> None:
        """The compiler is in use: it shall find Python functions, which look whether it traces them."""
        if not self.guarded:
            self.guarded = True
            self._open_short_way()
            self.patches.exchange(plain)

    def on_training(self, listener: Callable[[], None]) -> None:
        """Call `listener` once, at the first backward pass or optimizer step."""
        self._began_training.append(listener)

    def optimizer_is_new(self) -> None:
        """An optimizer was made, or steps for the first time."""
        for listener in self.optimizer_listeners:
            listener()

    def training_began(self) -> None:
        """A backward pass or an optimizer step was seen."""
        while self._began_training:
            self._began_training.pop()()

    def stepped(self) -> None:
        """An optimizer has stepped; on the hot path, so next to nothing happens here."""
        self.gate.steps += 1
        if self.gate.steps >= self.gate.due:
            self.call_listeners()

    def on_step(self, listener: Callable[[], int | None], first: int = 1) -> None:
        """Call `listener` after optimizer step number `first`, and then after the step whose number it returns.

        None: never again. `session.steps` is the number of the step that has just ended.
        """
        self._listeners.append((first, listener))
        self.gate.due = min(due for due, _ in self._listeners)

    def call_listeners(self) -> None:
        waiting, self._listeners = self._listeners, []
        for due, listener in waiting:
            following: int | None = due
            if due <= self.steps:
                try:
                    following = listener()
                except Exception as error:
                    self.fail("a step's end", error)
                    return
            if following is not None:
                self._listeners.append((max(following, self.steps + 1) if due <= self.steps else due, listener))
        self.gate.due = min((due for due, _ in self._listeners), default=NEVER)

    # how it stops

    def on_close(self, closer: Callable[[], None]) -> None:
        """Call `closer` when the session ends, in whichever way; last registered first."""
        self._closers.append(closer)

    def on_end(self, ender: Callable[[], None]) -> None:
        """Call `ender` when the session closes, but not on an error of ours: torch may be iterating then."""
        self._enders.append(ender)

    def close(self) -> None:
        """End in an orderly way: every hook is removed, the record says that it is complete."""
        self._remove_hooks()
        if self._failure is not None:  # of a thread beside the training, and no step has ended since
            self._fail_now(*self._failure)
        while self._enders:
            with contextlib.suppress(Exception):
                self._enders.pop()()
        if not self.active:
            return
        if self._folder is not None or len(self.gate):
            self.record((code(Kind.MARK, Name.ENDED), self.clock()))
            self.drain()
        self.active = False
        self._owned_by(CLOSED)
        self.tape.kill()
        self.notes.close()

    def fail(self, where: str, error: BaseException) -> None:
        """An error of ours: stop recording, say so in one line, and leave the training alone.

        From a thread beside the training, this waits for the end of a step: hooks are taken away by the thread
        that may be inside them.
        """
        if not self.active:
            return
        if self.role == "training" and self.owner is not None and self.owner != get_ident():
            self._failure = (where, error)
            self.on_step(lambda: self._fail_now(where, error), first=0)
        else:
            self._fail_now(where, error)

    def _fail_now(self, where: str, error: BaseException) -> None:
        if not self.active or self._failing:  # a garbage collection in here may fail too
            return
        self._failing = True
        with contextlib.suppress(Exception):
            self.gate.record((code(Kind.MARK, Name.DISABLED), self.clock()))
            self.drain()
            self.note("disabled", where=where, error=f"{type(error).__name__}: {error}")
        self.active = False
        self._owned_by(CLOSED)
        self.tape.kill()
        with contextlib.suppress(Exception):
            sys.stderr.write(
                f"prof: recording stopped by an error of its own in {where} "
                f"({type(error).__name__}: {error}); the training goes on.\n"
            )
        self._remove_hooks()

    def _disk_failed(self, error: OSError) -> None:
        self.fail("writing the record", error)

    def _remove_hooks(self) -> None:
        while self._closers:
            closer = self._closers.pop()
            with contextlib.suppress(Exception):
                closer()
        self.patches.undo()

    # forks

    def forked(self) -> None:
        """In the child of a fork: nothing of the parent's may be written to from here."""
        self._folder = None
        self._seen_calls = set()
        self._draining = Lock()
        self.gate.take()
        self.gate.steps = 0
        self._owned_by(None if self.active else CLOSED)
        self.use_record(None)
        self.notes = Notes(self.folder)
        if self.active:
            self.tape.restart()

    def become_worker(self, parent_pid: int) -> None:
        """This process is a DataLoader's worker: it writes into its parent's folder, and no stages."""
        self.role = "worker"
        self._owned_by(CLOSED)
        self.tape.kill()
        folder = rank_directory(self.config.run_directory, current_rank()) / str(parent_pid)
        self._folder = folder if folder.is_dir() else None
        if self._folder is None:
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = folder


def current_rank() -> int:
    """The process's rank by its launcher's environment, else by torch.distributed, else 0."""
    for variable in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        if os.environ.get(variable, "").isdigit():
            return int(os.environ[variable])
    if os.environ.get("SLURM_NTASKS", "1") != "1" and os.environ.get("SLURM_PROCID", "").isdigit():
        return int(os.environ["SLURM_PROCID"])
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return 0
