"""Forward: when a root module (one that the user's loop calls) begins and ends.

A root that is known carries a `RootCall` in the slot that `torch.nn.Module` keeps for a compiled call
(`_compiled_call_impl`): torch leaves that slot out of pickles, copies and state dicts, and neither `forward`
nor the module's class is touched. Roots become known by a global forward pre-hook, which is armed only while
we look for them and disarms itself before the root's submodules run: they never pay for it.

The loss belongs to forward. Loss modules are roots like others; for a functional loss the analysis lets
forward last until backward begins.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any

import torch
from torch.nn.modules import module as torch_module
from torch.nn.modules.loss import _Loss

from ..record.vocabulary import Flag, Forward, Kind, Name, code
from .gate import Codes, Root, has_short_way
from .imports import when_imported
from .session import Session
from .settings import describe_root
from .transient import Transient

_SLOT = "_compiled_call_impl"
_SEARCH_STEPS = 16  # after so many optimizer steps the pre-hook rests …
_SEARCH_AT_MOST = 1024  # … and looks again for a step after as many again, at most so many
_MAX_ROOTS = 4096

_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled


class RootCall(Transient, functools.partial):  # type: ignore[type-arg]
    """Stands in a root's slot for the compiled call; what runs is made by `_root_call`.

    A `partial`: a call that stays in C, of a class that can refuse to be pickled.
    """

    inner: Callable[..., Any] | None  # a compiled call that stood here before us


class ShortRootCall(Transient, Root):  # type: ignore[misc]
    """The same, by the short way; `slow` is the `RootCall`."""


ROOT_CALLS = (RootCall, ShortRootCall)


def _root_call(
    module: torch.nn.Module, codes: RootCodes, search: RootSearch, inner: Callable[..., Any] | None
) -> RootCall | ShortRootCall:
    """Push, the module's own call, pop."""
    reference = weakref.ref(module)  # a strong one would keep the module alive until a collection
    session, record, clock = search.session, search.session.record, search.session.clock
    gate = session.gate
    push, pop, raised = codes.push, codes.pop, codes.raised

    def call(*args: Any, **kwargs: Any) -> Any:
        module: Any = reference()
        run = inner or module._call_impl
        if gate.searching or session.guarded or get_ident() != session.owner:
            return search.call(codes, module, run, args, kwargs)
        try:
            record((push[module.training + 2 * _is_grad_enabled()], clock()))
        except Exception as error:
            session.fail("forward", error)
            return run(*args, **kwargs)
        try:
            result = run(*args, **kwargs)
        except BaseException:
            session.write_safely(raised, "forward")
            raise
        try:
            record((pop, clock()))
        except Exception as error:
            session.fail("forward", error)
        return result

    session.follow_record(call)
    made = RootCall(call)
    made.inner = inner
    if not has_short_way(session):
        return made
    return ShortRootCall(session.gate, reference, codes, made, inner, _is_grad_enabled)


class RootCodes(Codes):  # type: ignore[misc]
    """The event codes of one root."""

    __slots__ = ("number", "pop", "push", "raised", "seen")

    def __init__(self, number: int, is_loss: bool) -> None:
        self.number = number
        self.seen = False  # whether its output was looked at
        detail = Forward.LOSS if is_loss else Forward.MODULE
        self.push = [
            code(
                Kind.PUSH,
                Name.FORWARD,
                detail,
                number,
                Flag.TRAINING * bool(bits & 1) | Flag.GRAD * bool(bits & 2),
            )
            for bits in range(4)
        ]
        self.pop = code(Kind.POP, Name.FORWARD, detail, number)
        self.raised = code(Kind.POP, Name.FORWARD, detail, number, Flag.RAISED)
        self.keep(self.push, self.pop, self.raised, self.raised)


class RootSearch:
    """Finds roots, and knows the roots that were found."""

    __slots__ = (
        "_count", "_due", "_key", "_loaders", "_looked_at", "_roots", "_until", "armed", "compiling_used", "inside",
        "session",
    )  # fmt: skip

    def __init__(self, session: Session) -> None:
        self.session = session
        self.inside = False  # while searching: a root of the training thread is running
        self.armed = False
        self.session.gate.searching = True
        self.compiling_used = False
        self._count = 0
        self._due = 0  # the step after which to look again
        self._looked_at = 0
        self._until = _SEARCH_STEPS  # the step before which not to rest
        self._loaders: set[int] = set()  # those that were iterated
        self._roots: list[weakref.ref[torch.nn.Module]] = []
        # a key that no RemovableHandle takes
        self._key: Any = "trainprof"

    def call(self, codes: RootCodes, module: Any, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A root's call when there is more to heed than the time: a search, the compiler, another thread."""
        session = self.session
        push = codes.push[module.training + 2 * _is_grad_enabled()]
        traced = session.guarded and _is_compiling()
        if traced or self.inside or (get_ident() != session.owner and not session.owns(push)):
            return run(*args, **kwargs)
        try:
            if self.armed:
                self.disarm()
            session.write(push)
            self.inside = True
        except Exception as error:
            session.fail("forward", error)
            return run(*args, **kwargs)
        try:
            result = run(*args, **kwargs)
        except BaseException:
            self.inside = False
            session.write_safely(codes.raised, "forward")
            raise
        self.inside = False
        try:
            session.write(codes.pop)
            session.drain_if_long()
            if self.session.gate.searching:
                self.look_at(codes, result)
                self.arm()
        except Exception as error:
            session.fail("forward", error)
        return result

    # looking

    def arm(self) -> None:
        """Have the next module call shown to us."""
        if not self.armed and not self.compiling_used and self.session.active:
            self.armed = True
            torch_module._global_forward_pre_hooks[self._key] = self._found

    def disarm(self) -> None:
        """Leave module calls alone."""
        self.armed = False
        torch_module._global_forward_pre_hooks.pop(self._key, None)

    def compiler_used(self) -> None:
        """From now on hooks may be traced, and compiled code would see an armed one."""
        self.compiling_used = True
        self.disarm()
        if not self.session.guarded:
            self.session.guard()
            for module, ours in self._known():
                if isinstance(ours, ShortRootCall):
                    vars(module)[_SLOT] = ours.slow

    def epoch_begins(self) -> None:
        """A DataLoader is iterated: with a new one, or after many steps, search during the step that follows."""
        session = self.session
        loader, step = session.starting_loader, session.steps
        if loader in self._loaders and step - self._looked_at < _SEARCH_AT_MOST:
            return
        self._loaders.add(loader)
        self._look_for(1)

    def optimizer_is_new(self) -> None:
        """It may train a new model: search during the next two steps."""
        self._look_for(2)

    def _look_for(self, steps: int) -> None:
        """Search until so many more steps are done, whatever the rhythm of `on_step`."""
        session = self.session
        self._until = max(self._until, session.steps + steps)
        self._look(session.steps)
        session.on_step(self._rest_if_due, first=self._until)

    def _rest_if_due(self) -> None:
        if self.session.steps >= self._until:
            self._rest()

    def on_step(self) -> int:
        """After an optimizer step: search at first, then for one step now and then. Says when to ask again."""
        step = self.session.steps
        if step < self._until:
            return step + 1
        if step == self._due:
            self._look(step)
            return step + 1
        self._rest()
        self._due = step + min(step, _SEARCH_AT_MOST)
        return self._due

    def _look(self, step: int) -> None:
        self.session.gate.searching = True
        self._looked_at = step
        if not self.inside:
            self.arm()

    def _rest(self) -> None:
        self.session.gate.searching = False
        self.disarm()

    def _found(self, module: torch.nn.Module, args: Any) -> None:
        """The global pre-hook: this module was called from outside any root."""
        try:
            if _is_compiling():
                return
            owner = self.session.owner
            if owner is not None and owner != get_ident():
                return  # e.g. a replica's thread; stay armed for the thread that trains
            self.disarm()
            if self.inside:
                return
            known = vars(module).get(_SLOT)
            if not isinstance(known, ROOT_CALLS):
                codes = self.adopt(module)
                if codes is not None:
                    self._record_first_call(module, codes)
        except Exception as error:
            self.session.fail("finding the model", error)

    def adopt(self, module: torch.nn.Module, inner: Callable[..., Any] | None = None) -> RootCodes | None:
        """Make `module` a known root; `inner` is the compiled call to run in its place, if there is one."""
        if self._count >= _MAX_ROOTS or isinstance(module, torch.jit.ScriptModule):
            return None
        codes = RootCodes(self._count, isinstance(module, _Loss))
        describe_root(self.session, self._count, module)
        self._count += 1
        if self._count % 256 == 0:
            self._roots = [root for root in self._roots if root() is not None]
        vars(module)[_SLOT] = _root_call(module, codes, self, inner or vars(module).get(_SLOT))
        self._roots.append(weakref.ref(module))
        return codes

    def look_at(self, codes: RootCodes, output: Any) -> None:
        """Note, once, whether a root returns the loss itself: what runs after it is then no loss of ours to time."""
        if not codes.seen and _is_grad_enabled():
            codes.seen = True
            self.session.note("root_output", id=codes.number, has_loss=_has_loss(output))

    def _record_first_call(self, module: torch.nn.Module, codes: RootCodes) -> None:
        """The call that showed us the root is under way: its end is seen by a hook of the module's own.

        The hook removes itself where the call succeeds. Where it raises, torch is iterating over the hooks
        and must not be disturbed: the POP is then missing, which the reader bears.
        """
        self.session.write(codes.push[module.training + 2 * _is_grad_enabled()])

        def ended(module: torch.nn.Module, args: Any, output: Any) -> None:
            handle.remove()
            if self.inside:
                return  # the first call raised, and this is a later one
            self.session.write_safely(codes.pop, "forward")
            if self.session.gate.searching:
                self.look_at(codes, output)
                self.arm()

        handle = module.register_forward_hook(ended)

    def forget(self) -> None:
        """Take every RootCall out again."""
        self.disarm()
        for module, ours in self._known():
            if ours.inner is not None:
                vars(module)[_SLOT] = ours.inner
            else:
                del vars(module)[_SLOT]
        self._roots.clear()

    def _known(self) -> Iterator[tuple[torch.nn.Module, Any]]:
        """The roots that live and carry our call."""
        for reference in self._roots:
            module = reference()
            if module is not None and isinstance(vars(module).get(_SLOT), ROOT_CALLS):
                yield module, vars(module)[_SLOT]


def _has_loss(output: Any) -> bool:
    """Whether an output is, or holds at its first level, a scalar with a graph behind it."""
    if isinstance(output, dict):
        output = tuple(output.values())
    values = output if isinstance(output, (tuple, list)) else (output,)
    return any(isinstance(value, torch.Tensor) and value.dim() == 0 and value.requires_grad for value in values)


def install(session: Session) -> RootSearch:
    """Begin to look for roots."""
    search = RootSearch(session)
    session.on_close(search.forget)
    session.on_step(search.on_step)
    _follow_compilation(session, search)
    _follow_replicas(session)
    _follow_scripting(session)
    search.arm()
    return search


def _follow_compilation(session: Session, search: RootSearch) -> None:
    """Hooks must stand outside compiled code: a compiled module is a root from the start.

    Compiled code guards on global hooks, and warns where it sees one: from the first use of the compiler on,
    we look for no further roots.
    """
    compile_function = torch.compile
    compile_module = torch.nn.Module.compile

    @functools.wraps(compile_function)
    def compile(*args: Any, **kwargs: Any) -> Any:
        result = compile_function(*args, **kwargs)
        if session.active and not _is_compiling():
            try:
                session.note_call("compile", 0)
                search.compiler_used()
                if isinstance(result, torch.nn.Module):
                    search.adopt(result)
            except Exception as error:
                session.fail("torch.compile", error)
        return result

    @functools.wraps(compile_module)
    def compile_in_place(self: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        vars(self).pop(_SLOT, None)
        compile_module(self, *args, **kwargs)
        if session.active:
            try:
                search.adopt(self, vars(self)[_SLOT])
            except Exception as error:
                session.fail("Module.compile", error)

    def watch(eval_frame: Any) -> None:
        """Every use of the compiler, torch.export's too, makes an `OptimizeContext`."""
        context = getattr(eval_frame, "OptimizeContext", None)
        if context is None:  # a version that we do not know
            search.compiler_used()
            return
        begin = context.__init__

        @functools.wraps(begin)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            search.compiler_used()
            begin(self, *args, **kwargs)

        session.patches.replace(context, "__init__", __init__)

    session.patches.replace(torch, "compile", compile)
    session.on_close(when_imported("torch._dynamo.eval_frame", watch))
    session.patches.replace(torch.nn.Module, "compile", compile_in_place)


def _follow_replicas(session: Session) -> None:
    """DataParallel copies a module's `__dict__`: a replica must not call the original."""
    replicate = torch.nn.Module._replicate_for_data_parallel

    @functools.wraps(replicate)
    def replicate_without_root(self: torch.nn.Module) -> Any:
        replica = replicate(self)
        if isinstance(vars(replica).get(_SLOT), ROOT_CALLS):
            del vars(replica)[_SLOT]
        return replica

    session.patches.replace(torch.nn.Module, "_replicate_for_data_parallel", replicate_without_root)


def _follow_scripting(session: Session) -> None:
    """TorchScript reads every attribute of a module, and cannot type what we left in its slot."""
    original = torch.jit.script

    @functools.wraps(original)
    def script(obj: Any, *args: Any, **kwargs: Any) -> Any:
        modules = list(obj.modules()) if isinstance(obj, torch.nn.Module) else []
        calls = {
            module: vars(module).pop(_SLOT) for module in modules if isinstance(vars(module).get(_SLOT), ROOT_CALLS)
        }
        if len(args) < 2:  # names are looked up in the caller's frame, which is one further up
            kwargs["_frames_up"] = kwargs.get("_frames_up", 0) + 1
        try:
            return original(obj, *args, **kwargs)
        finally:
            for module, call in calls.items():
                vars(module)[_SLOT] = call

    session.patches.replace(torch.jit, "script", script)
