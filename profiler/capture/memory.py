"""Memory by category, for one sampled step: parameters, gradients, optimizer states, activations.

And what need not be there while it runs: the gradients of the step before, and afterwards this step's own outputs.

For that step saved-tensor hooks count what autograd keeps for backward, and module hooks tell for which module.
The step is slower for it: INSTRUMENT events mark it, so that the statistics leave it out. What a checkpointed
region recomputes, and what a custom function keeps on `ctx` by itself, is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from threading import get_ident
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from ..record.vocabulary import Instrument, Kind, Name, code
from .environment import was_set
from .kept_outputs import KeptOutputs, tensors_in
from .saved_tensors import Ledger, SavedTensorHooks, why_not_hook
from .session import Session
from .settings import seen

_AFTER_ROUNDS = 5  # of all optimizers: states exist by then, and caches are warm
_MOST_MODULES = 50
_TRIES = 8
_RETRY_STEPS = 16

_PUSH = code(Kind.PUSH, Name.INSTRUMENT, Instrument.MEMORY_STEP)
_POP = code(Kind.POP, Name.INSTRUMENT, Instrument.MEMORY_STEP)


def install(session: Session) -> None:
    """Measure one of the first steps, if the session looks deep."""
    if not session.config.deep:
        return
    step = MemoryStep(session)
    session.on_step(step.on_step, first=_AFTER_ROUNDS + 1)
    session.on_close(step.abandon)


class MemoryStep:
    """Waits for a step that can be measured, measures it, and is done."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tries = 0
        self._window: Window | None = None
        self._left = 0  # optimizer steps until the window closes
        self._extended = 0
        self._lingering: SavedTensorHooks | None = None  # to be taken away once it is on top again
        self._outputs: KeptOutputs | None = None  # of the measured step, until the end of the next one

    def on_step(self) -> int | None:
        """Listens to optimizer steps; returns the next one of interest."""
        session = self._session
        if session.owner != get_ident():
            return session.steps + 1
        if self._outputs is not None:
            self._left -= 1
            if self._left > 0:
                return session.steps + 1
            self._outputs.report()
            self._outputs = None
            return None if self._lingering is None else session.steps + 1
        if self._lingering is not None:
            return None if self._lingering.pop() else session.steps + 1
        if self._window is not None:
            return self._advance(self._window)
        rounds = max(1, len(seen(session).living_optimizers()))
        if session.steps < _AFTER_ROUNDS * rounds + 1:
            return _AFTER_ROUNDS * rounds + 1
        why = self._why_not()
        if why is not None:
            self._tries += 1
            if self._tries < _TRIES:
                return session.steps + _RETRY_STEPS
            session.note("unobserved", what="activations", why=why)
            return None
        session.write(_PUSH)
        self._window = Window(session)
        self._left = rounds
        self._extended = 0
        session.write(_POP)
        return session.steps + 1

    def _advance(self, window: Window) -> int | None:
        session = self._session
        window.measure_states()
        self._left -= 1
        if self._left <= 0 and not window.saw_anything() and self._extended < 2:
            self._left = 1  # `profiler.step()` after the optimizer: the training step is still to come
            self._extended += 1
        if self._left > 0:
            return session.steps + 1
        session.write(_PUSH)
        self._window = None
        self._lingering = window.close(report=True)
        self._outputs = window.outputs if window.outputs.watch() else None
        self._left = max(1, len(seen(session).living_optimizers()))
        session.write(_POP)
        return None if self._lingering is None and self._outputs is None else session.steps + 1

    def _why_not(self) -> str | None:
        """Why this is not the time to measure a step; None when it is."""
        session = self._session
        dynamo = sys.modules.get("torch._dynamo.eval_frame")
        # global hooks make compiled code warn and compile again
        if was_set(session, "compile") or _has_compiled(dynamo):
            return "the training uses torch.compile"
        if was_set(session, "fsdp") or "deepspeed" in sys.modules:
            return "the parameters are sharded"
        if was_set(session, "data_parallel"):
            return "DataParallel runs the model on threads of its own"
        if any(type(tensor) not in (torch.Tensor, torch.nn.Parameter) for tensor in _parameters(session)):
            return "the parameters are of a tensor class of their own"
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is being captured"
        return why_not_hook()

    def abandon(self) -> None:
        """The session ends."""
        window, self._window = self._window, None
        if window is not None:
            window.close(report=False)
        if self._outputs is not None:
            self._outputs.stop()
        if self._lingering is not None:
            self._lingering.pop()


class Window:
    """The step under measurement."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ledger = Ledger()
        self._samples: dict[int, int] = {}  # by root: summed over the step's forwards
        self.outputs = KeptOutputs(session)
        self._gradients_in_forward: int | None = None
        self._thread = get_ident()
        self._labels: dict[int, str] = {}
        self._root_parameters: dict[int, int] = {}
        self._roots: set[int] = set()
        self._states_bytes = {"gradients": 0, "optimizer": 0}
        self._inside_hook = False
        _forget_storages(self._ledger, _parameters(session))
        self._handles = [
            torch_module.register_module_forward_pre_hook(self._entered),
            torch_module.register_module_forward_hook(self._left, always_call=True),
        ]
        self._hooks = SavedTensorHooks(self._ledger)
        self._hooks.push()
        self._began_ns = session.clock()

    def saw_anything(self) -> bool:
        """Whether a module ran or a tensor was saved."""
        return bool(self._roots) or self._ledger.peak_bytes > 0 or self._hooks.interrupted

    # module hooks

    def _entered(self, module: torch.nn.Module, args: Any) -> None:
        if get_ident() != self._thread or not self._session.active:
            return
        self._inside_hook = True
        try:
            if not self._ledger.modules and id(module) not in self._roots:
                self._meet_root(module)
            label = self._labels.get(id(module)) or type(module).__name__
            self._ledger.modules.append((id(module), label))
        except Exception as error:
            self._session.fail("memory", error)
        self._inside_hook = False

    def _left(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if get_ident() != self._thread or not self._session.active:
            return
        running = self._ledger.modules
        identity = id(module)
        if any(known == identity for known, _ in running):
            while running.pop()[0] != identity:
                pass  # an exception went through this one
            if not running and identity in self._roots:
                self._returned(module, args, output)

    def _returned(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        """A root is done. What it took and gave counts where a backward pass follows; at the first, gradients too."""
        self._inside_hook = True
        try:
            if torch.is_grad_enabled():
                if self._gradients_in_forward is None:
                    gradients = (tensor.grad for tensor in _parameters(self._session) if tensor.grad is not None)
                    self._gradients_in_forward = sum(_storages(gradients).values())
                self.outputs.add(output)
                self._count_samples(module, args)
        except Exception as error:
            self._session.fail("memory", error)
        self._inside_hook = False

    def _count_samples(self, module: torch.nn.Module, args: Any) -> None:
        """By the first dimension of a model's first input; a loss is no model."""
        first = next(tensors_in(args), None)
        if first is not None and first.dim() > 0 and next(module.parameters(), None) is not None:
            self._samples[id(module)] = self._samples.get(id(module), 0) + int(first.shape[0])

    def _meet_root(self, module: torch.nn.Module) -> None:
        self._roots.add(id(module))
        for path, part in module.named_modules():
            name = type(part).__name__
            self._labels.setdefault(id(part), f"{path} ({name})" if path else name)
        tensors = [*module.parameters(), *module.buffers()]
        _forget_storages(self._ledger, tensors)
        self._root_parameters |= _storages(module.parameters())

    # what the optimizers hold

    def measure_states(self) -> None:
        """Right after an optimizer's step: gradients are still there, states are there by now."""
        optimizers = seen(self._session).living_optimizers()
        gradients = (tensor.grad for tensor in _parameters(self._session) if tensor.grad is not None)
        states = (tensor for optimizer in optimizers for tensor in tensors_in(list(optimizer.state.values())))
        for category, tensors in (("gradients", gradients), ("optimizer", states)):
            size_bytes = sum(_storages(tensors).values())
            self._states_bytes[category] = max(self._states_bytes[category], size_bytes)

    # the end

    def close(self, report: bool) -> SavedTensorHooks | None:
        """Take every hook away, and note what was seen; the pair that must wait to be taken away, if one must."""
        step_time_ns = self._session.clock() - self._began_ns
        if not self._inside_hook:  # else torch may be iterating over them; they do nothing any more
            for handle in self._handles:
                handle.remove()
        self._hooks.stop_counting()
        gone = get_ident() == self._thread and self._hooks.pop()
        if report:
            self._report(step_time_ns)
        return None if gone else self._hooks

    def _report(self, step_time_ns: int) -> None:
        parameters = _storages(_parameters(self._session)) | self._root_parameters
        categories = {"parameters": sum(parameters.values()), **self._states_bytes}
        by_module: list[tuple[str, int]] = []
        if self._hooks.interrupted:
            self._session.note("unobserved", what="activations", why="the training uses torch.func")
        else:
            categories["activations"] = self._ledger.peak_bytes
            by_module = sorted(self._ledger.peak_bytes_by_module.items(), key=lambda row: -row[1])[:_MOST_MODULES]
        device = {}
        if torch.cuda.is_initialized():
            device["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
            device["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
        self._session.note(
            "memory",
            categories=categories,
            activations_by_module=by_module,
            step_time_ns=step_time_ns,
            gradients_in_forward=self._gradients_in_forward,
            samples=max(self._samples.values(), default=None),
            **device,
        )


def _has_compiled(dynamo: Any) -> bool:
    """Whether the compiler, if it is loaded, keeps a backend for anything."""
    backends = getattr(dynamo, "cached_backends", None) or {}
    return any(backend is not None for backend in backends.values())


def _parameters(session: Session) -> Iterator[torch.Tensor]:
    for optimizer in seen(session).living_optimizers():
        for group in optimizer.param_groups:
            yield from group["params"]


def _storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Bytes of the storages behind these tensors, each once, by their identity."""
    found: dict[int, int] = {}
    for tensor in tensors:
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):  # sparse: it has no storage of its own
            found[-id(tensor)] = sum(part.untyped_storage().nbytes() for part in (tensor._indices(), tensor._values()))
            continue
        found[storage._cdata] = storage.nbytes()
    return found


def _forget_storages(ledger: Ledger, tensors: Iterable[torch.Tensor]) -> None:
    ledger.not_activations.update(_storages(tensors))
