"""Data wait: the training thread asks a DataLoader for its next batch, or starts its workers."""

from __future__ import annotations

import functools
from threading import get_ident
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ..record.vocabulary import DataWait, Flag, Kind, Name, code
from .batches import look_at
from .gate import Codes, short_way
from .session import Session
from .settings import describe_loader
from .transient import Transient


class LoaderCodes(Transient, Codes):  # type: ignore[misc]
    """The event codes of one loader."""

    __slots__ = ("exhausted", "iterate", "iterated", "looked", "number", "pop", "push", "raised")

    def __init__(self, number: int, has_workers: bool) -> None:
        flags = Flag.WORKERS if has_workers else 0
        self.number = number
        self.looked = False  # at a batch
        self.push = code(Kind.PUSH, Name.DATA_WAIT, DataWait.NEXT, number, flags)
        self.pop = code(Kind.POP, Name.DATA_WAIT, DataWait.NEXT, number)
        self.exhausted = code(Kind.POP, Name.DATA_WAIT, DataWait.NEXT, number, Flag.EXHAUSTED)
        self.raised = code(Kind.POP, Name.DATA_WAIT, DataWait.NEXT, number, Flag.RAISED)
        self.iterate = code(Kind.PUSH, Name.DATA_WAIT, DataWait.ITER, number, flags)
        self.iterated = code(Kind.POP, Name.DATA_WAIT, DataWait.ITER, number)


class Loaders:
    """Numbers the loaders of a process as they are first used."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.count = 0

    def codes(self, holder: Any, loader: Any, depth: int) -> LoaderCodes:
        """The codes kept on a loader or an iterator; made on first sight."""
        codes: LoaderCodes | None = vars(holder).get(self.session.key)
        if codes is None:
            if loader is not holder and loader is not None:
                codes = self.codes(loader, loader, depth + 1)
            else:
                codes = LoaderCodes(self.count, getattr(holder, "num_workers", 0) > 0)
                self.count += 1
                self.session.note_call("data_wait", DataWait.NEXT, depth + 1)
                if loader is not None:
                    describe_loader(self.session, codes.number, loader, depth + 1)
            # past DataLoader.__setattr__, which refuses some names
            vars(holder)[self.session.key] = codes
        return codes


def install(session: Session) -> None:
    """Wrap `DataLoader.__iter__` and the iterators' `__next__`; patched classes reach living iterators too."""
    loaders = Loaders(session)
    replace = session.patches.replace
    replace(_BaseDataLoaderIter, "__next__", _timed_next(session, loaders, _BaseDataLoaderIter.__next__))
    replace(DataLoader, "__iter__", _timed_iter(session, loaders, DataLoader.__iter__))


_ANY = code(Kind.PUSH, Name.DATA_WAIT)


def _timed_next(session: Session, loaders: Loaders, original: Any) -> Any:
    record, clock = session.record, session.clock
    key = session.key

    @functools.wraps(original)
    def __next__(self: Any) -> Any:  # noqa: N807
        if get_ident() != session.owner and not session.owns(_ANY):
            return original(self)
        try:
            codes = getattr(self, key, None) or loaders.codes(self, None, 2)
            record((codes.push, clock()))
        except Exception as error:
            session.fail("data wait", error)
            return original(self)
        try:
            batch = original(self)
        except StopIteration:
            session.write_safely(codes.exhausted, "data wait")
            raise
        except BaseException:
            session.write_safely(codes.raised, "data wait")
            raise
        try:
            record((codes.pop, clock()))
            if not codes.looked:
                codes.looked = True
                look_at(session, codes.number, batch)
                codes.keep(codes.push, codes.pop, codes.raised, codes.exhausted)
        except Exception as error:
            session.fail("data wait", error)
        return batch

    return short_way(session, original, __next__, key)


def _timed_iter(session: Session, loaders: Loaders, original: Any) -> Any:
    @functools.wraps(original)
    def __iter__(self: Any) -> Any:  # noqa: N807
        if not session.active:
            return original(self)
        try:
            codes = loaders.codes(self, self, 2)
            session.starting_loader = codes.number
            for listener in session.epoch_listeners:
                listener()
            session.write(codes.iterate)
            session.drain()
        except Exception as error:
            session.fail("data loader start", error)
            return original(self)
        try:
            iterator = original(self)
        except BaseException:
            session.write_safely(codes.iterated, "data loader start")
            raise
        try:
            session.write(codes.iterated)
            if hasattr(iterator, "__dict__"):
                vars(iterator)[session.key] = codes
        except Exception as error:
            session.fail("data loader start", error)
        return iterator

    return __iter__
