"""Chrome traces made by hand, as Kineto writes them.

A test says in milliseconds what the training thread did and what it launched; the builder puts in correlation numbers
and the streams, and a step at a time repeats it.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

PID, THREAD, ENGINE = 4000, 4000, 4077
STREAM, COPIES, COLLECTIVES = 7, 21, 40
BEGAN_US = 1_700_000_000_000_000


class TraceBuilder:
    """Events of one process. All times are milliseconds since the recording began."""

    def __init__(self, pid: int = PID, rank: int | None = None, world_size: int | None = None) -> None:
        self.pid = pid
        self.events: list[dict[str, Any]] = []
        self.head: dict[str, Any] = {"schemaVersion": 1}
        if rank is not None:
            self.head["distributedInfo"] = {"backend": "nccl", "rank": rank, "world_size": world_size or rank + 1}
        self._correlation = 100
        self._index = 0
        self._python = 0

    def event(self, cat: str, name: str, at: float, ms: float, pid: Any, tid: Any, **args: Any) -> dict[str, Any]:
        made = {
            "ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid,
            "ts": BEGAN_US + round(at * 1000, 3), "dur": round(ms * 1000, 3), "args": args,
        }  # fmt: skip
        self.events.append(made)
        return made

    def op(self, name: str, at: float, ms: float, thread: int = THREAD, cat: str = "cpu_op") -> None:
        """An operator, or a range (`cat="user_annotation"`), of the host."""
        self._index += 1
        self.event(cat, name, at, ms, self.pid, thread, **{"Ev Idx": self._index - 1, "External id": self._index})

    def mark(self, name: str, at: float, ms: float, thread: int = THREAD) -> None:
        self.op(name, at, ms, thread, "user_annotation")

    def python(
        self, name: str, at: float, ms: float, parent: int | None = None, thread: int = THREAD, id_: int | None = None
    ) -> int:
        """A function of Python; its number, by which those that it calls name it."""
        self._python += 1
        number = self._python if id_ is None else id_
        said = {"Python id": number, "Python parent id": parent}
        self.event("python_function", name, at, ms, self.pid, thread, **said)
        return number

    def call(self, name: str, at: float, ms: float, thread: int = THREAD, **args: Any) -> int:
        """A call of the runtime; its correlation number."""
        self._correlation += 1
        self.event("cuda_runtime", name, at, ms, self.pid, thread, correlation=self._correlation, **args)
        return self._correlation

    def work(
        self, name: str, at: float, ms: float, correlation: int | None, stream: int = STREAM, cat: str = "kernel",
        device: int = 0, **args: Any,
    ) -> None:  # fmt: skip
        """What the device does."""
        said = {} if correlation is None else {"correlation": correlation}
        self.event(cat, name, at, ms, device, stream, device=device, stream=stream, **said, **args)

    def kernel(
        self, at: float, ms: float, launched: float, name: str = "ampere_sgemm_128x64_nn", thread: int = THREAD,
        stream: int = STREAM, **args: Any,
    ) -> None:  # fmt: skip
        """A kernel and its launch of 0.005 ms."""
        self.work(name, at, ms, self.call("cudaLaunchKernel", launched, 0.005, thread), stream, **args)

    def copy(
        self, at: float, ms: float, called: float, call_ms: float, name: str = "Memcpy HtoD (Pageable -> Device)",
        size: int | None = 1 << 20, stream: int = STREAM,
    ) -> None:  # fmt: skip
        """A copy and the call that asked for it."""
        said = {} if size is None else {"bytes": size}
        self.work(name, at, ms, self.call("cudaMemcpyAsync", called, call_ms), stream, "gpu_memcpy", **said)

    def backward(self, at: float, ms: float, nodes: int = 4, thread: int = ENGINE) -> None:
        """A backward pass of several nodes."""
        for number in range(nodes):
            self.op(
                "autograd::engine::evaluate_function: MmBackward0", at + number * ms / nodes, ms / nodes * 0.99, thread
            )

    def document(self) -> dict[str, Any]:
        return {**self.head, "traceEvents": self.events, "traceName": "made.json", "displayTimeUnit": "ms"}

    def text(self) -> bytes:
        """As Kineto prints it: one event over several lines."""
        head = json.dumps(self.head)[1:-1]
        body = ",\n  ".join(json.dumps(event).replace(', "args"', ',\n    "args"') for event in self.events)
        return f'{{\n  {head},\n  "traceEvents": [\n  {body}\n  ],\n  "traceName": "made.json"\n}}\n'.encode()

    def write(self, path: Path) -> Path:
        """Write it, packed where the name ends in .gz."""
        path.write_bytes(gzip.compress(self.text(), 1) if path.suffix == ".gz" else self.text())
        return path


def training(step: Any, steps: int = 4, step_ms: float = 100.0, marked: bool = True, **changes: Any) -> TraceBuilder:
    """A training of equal steps: `step(builder, start)` puts in what each of them does."""
    builder = TraceBuilder(**changes)
    for number in range(steps):
        start = number * step_ms
        if marked:
            builder.mark(f"ProfilerStep#{number + 5}", start, step_ms - 0.01)
        step(builder, start)
    return builder


def usual_host(builder: TraceBuilder, start: float, data_ms: float = 1.0, step_ms: float = 100.0) -> None:
    """What every training thread does: a batch, forward, backward, update, in proportion to the step."""
    builder.mark("enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__", start + 0.1, data_ms)
    rest = step_ms - data_ms - 0.2
    at = start + 0.2 + data_ms
    for number in range(10):
        builder.op("aten::linear", at + number * rest * 0.03, rest * 0.025)
    builder.backward(at + rest * 0.35, rest * 0.4)
    builder.mark("Optimizer.step#AdamW.step", at + rest * 0.8, rest * 0.1)
    builder.mark("Optimizer.zero_grad#AdamW.zero_grad", at + rest * 0.92, rest * 0.02)
