"""A caching allocator that writes snapshots as torch does: what it holds at each moment is known by construction.

The keys are those of `_snapshot` in torch/cuda/memory.py and of the structs of c10/core/CachingDeviceAllocator.h:
block states are "active_allocated", "active_pending_free" and "inactive"; an event's size is the one asked for; events
without a stack have no `frames`, blocks without one have an empty list.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

MIB = 2**20
TORCH = "/opt/env/lib/python3.11/site-packages/torch"
TRAIN, MODEL = "/home/ada/gpt/train.py", "/home/ada/gpt/model.py"
START_US = 1_700_000_000_000_000


def frame(file: str, line: int, name: str) -> dict[str, Any]:
    return {"filename": file, "line": line, "name": name}


def main(line: int) -> list[dict[str, Any]]:
    """The outer frames of a script: what `train` and the module called at this line."""
    return [frame(TRAIN, line, "train"), frame(TRAIN, 90, "<module>")]


def module(line: int, model_line: int, inner: str = "linear") -> list[dict[str, Any]]:
    """A forward: train.py:line calls the model, whose line calls one of torch's modules."""
    call = frame(f"{TORCH}/nn/modules/module.py", 1750, "_call_impl")
    return [
        frame(f"{TORCH}/nn/modules/{inner}.py", 125, "forward"),
        call,
        frame(MODEL, model_line, "forward"),
        call,
        *main(line),
    ]


CONSTRUCT = [
    frame(f"{TORCH}/nn/modules/module.py", 1355, "convert"),
    frame(f"{TORCH}/nn/modules/module.py", 930, "_apply"),
    frame(f"{TORCH}/nn/modules/module.py", 1369, "to"),
    *main(20),
]
STATES = [
    frame(f"{TORCH}/optim/adamw.py", 120, "_init_group"),
    frame(f"{TORCH}/optim/adamw.py", 210, "step"),
    frame(f"{TORCH}/optim/optimizer.py", 485, "wrapper"),
    *main(44),
]
UPDATE = [
    frame(f"{TORCH}/optim/adamw.py", 480, "_multi_tensor_adamw"),
    frame(f"{TORCH}/optim/adamw.py", 220, "step"),
    frame(f"{TORCH}/optim/optimizer.py", 485, "wrapper"),
    *main(44),
]
ZERO_GRAD = [frame(f"{TORCH}/optim/optimizer.py", 955, "zero_grad"), *main(45)]
BATCH = main(38)
BACKWARD: list[dict[str, Any]] = []  # autograd's thread: no Python
EMPTY_CACHE = [frame(f"{TORCH}/cuda/memory.py", 218, "empty_cache"), *main(50)]


@dataclass
class Allocation:
    address: int
    size: int
    requested: int
    frames: list[dict[str, Any]] | None
    state: str = "active_allocated"


@dataclass
class Region:
    address: int
    size: int
    stream: int
    pool: tuple[int, int]
    expandable: bool
    blocks: dict[int, Allocation] = field(default_factory=dict)

    def gaps(self) -> list[tuple[int, int]]:
        at, found = self.address, []
        for address in sorted(self.blocks):
            if address > at:
                found.append((at, address - at))
            at = address + self.blocks[address].size
        if self.address + self.size > at:
            found.append((at, self.address + self.size - at))
        return found


class Allocator:
    """One device. First fit over its segments; a new segment where nothing fits."""

    def __init__(
        self, device: int = 0, *, capacity: int = 1 << 40, stacks: bool = True, free_stacks: str = "all"
    ) -> None:
        self.device, self.capacity = device, capacity
        self.stacks, self.free_stacks = stacks, free_stacks
        self.recording = True
        self.regions: list[Region] = []
        self.trace: list[dict[str, Any]] = []
        self.held: dict[str, int] = {}  # truth: requested bytes by the label of the test
        self.history: list[dict[str, int]] = []  # truth after each event of the trace
        self.now_us = START_US
        self.next_address = 0x7F0000000000 + device * (1 << 42)
        self.labels: dict[int, tuple[str, int]] = {}

    def event(self, action: str, frames: list[dict[str, Any]] | None = None, **values: Any) -> None:
        self.now_us += 10
        if self.recording:
            entry: dict[str, Any] = {"action": action, **values, "stream": 0, "time_us": self.now_us}
            entry |= {"compile_context": "N/A", "user_metadata": "", "pool_id": (0, 0)}
            if frames is not None and self.stacks:
                entry["frames"] = frames
            self.trace.append(entry)
            self.history.append({label: size for label, size in self.held.items() if size})

    @property
    def reserved(self) -> int:
        return sum(region.size for region in self.regions)

    def segment(self, size: int, frames: list[dict[str, Any]] | None = None, pool: tuple[int, int] = (0, 0)) -> Region:
        region = Region(self.next_address, size, 0, pool, expandable=False)
        self.next_address += size + (4 * MIB)
        self.regions.append(region)
        self.event("segment_alloc", frames, addr=region.address, size=size)
        return region

    def alloc(
        self, requested: int, frames: list[dict[str, Any]] | None, label: str = "", pool: tuple[int, int] = (0, 0)
    ) -> int:
        """The address of a new block; raises MemoryError, after the events of a real failure, where none fits."""
        size = -(-requested // 512) * 512
        for attempt in (1, 2):
            fits = [
                (region, address)
                for region in self.regions
                for address, gap in region.gaps()
                if gap >= size and region.pool == pool
            ]
            if fits:
                break
            wanted = -(-size // (2 * MIB)) * 2 * MIB
            if self.reserved + wanted <= self.capacity:
                fits = [(region := self.segment(wanted, frames, pool), region.address)]
                break
            if attempt == 1:
                self.release(frames)
        if not fits:
            self.event("oom", frames, device_free=self.capacity - self.reserved, size=requested)
            raise MemoryError
        region, address = fits[0]
        region.blocks[address] = Allocation(address, size, requested, frames if self.recording else None)
        self.labels[address] = (label, requested)
        self.held[label] = self.held.get(label, 0) + requested
        self.event("alloc", frames, addr=address, size=requested)
        return address

    def free(self, address: int, frames: list[dict[str, Any]] | None = None) -> None:
        label, requested = self.labels[address]
        region = next(region for region in self.regions if address in region.blocks)
        if self.free_stacks != "all":  # context="alloc": torch falls back to the stack of the allocation
            frames = region.blocks[address].frames if self.free_stacks == "alloc" else None
        self.event("free_requested", frames, addr=address, size=requested)
        del region.blocks[address], self.labels[address]
        self.held[label] -= requested
        self.event("free_completed", frames, addr=address, size=requested)

    def request_free(self, address: int, frames: list[dict[str, Any]] | None = None) -> None:
        """Freed by its owner, while another stream still uses it."""
        region = next(region for region in self.regions if address in region.blocks)
        region.blocks[address].state = "active_pending_free"
        self.event("free_requested", frames, addr=address, size=self.labels[address][1])

    def release(self, frames: list[dict[str, Any]] | None = None) -> None:
        """Give back every segment that holds nothing."""
        for region in [region for region in self.regions if not region.blocks]:
            self.regions.remove(region)
            self.event("segment_free", frames, addr=region.address, size=region.size)

    def segments(self) -> list[dict[str, Any]]:
        return [self._segment(region) for region in self.regions]

    def _segment(self, region: Region) -> dict[str, Any]:
        blocks = [
            {
                "address": it.address,
                "size": it.size,
                "requested_size": it.requested,
                "state": it.state,
                "frames": it.frames if it.frames is not None and self.stacks else [],
            }
            for it in region.blocks.values()
        ]
        blocks += [
            {"address": address, "size": gap, "requested_size": 0, "state": "inactive", "frames": []}
            for address, gap in region.gaps()
        ]
        used = sum(it.size for it in region.blocks.values() if it.state == "active_allocated")
        return {
            "device": self.device,
            "address": region.address,
            "total_size": region.size,
            "allocated_size": used,
            "active_size": sum(it.size for it in region.blocks.values()),
            "requested_size": sum(it.requested for it in region.blocks.values()),
            "stream": region.stream,
            "segment_type": "large" if region.size > MIB else "small",
            "segment_pool_id": region.pool,
            "is_expandable": region.expandable,
            "frames": [],
            "blocks": sorted(blocks, key=lambda block: block["address"]),
        }


def snapshot(*allocators: Allocator, **more: Any) -> dict[str, Any]:
    """The dict of `torch.cuda.memory._snapshot()`."""
    devices = max((it.device for it in allocators), default=-1) + 1
    traces: list[list[dict[str, Any]]] = [[] for _ in range(devices)]
    for it in allocators:
        traces[it.device] = it.trace
    return {
        "segments": [segment for it in allocators for segment in it.segments()],
        "device_traces": traces,
        "allocator_settings": {
            "PYTORCH_CUDA_ALLOC_CONF": "",
            "max_split_size": 2**64 - 1,
            "garbage_collection_threshold": 0.0,
            "expandable_segments": False,
            "roundup_power2_divisions": {"1": 0, "2": 0},
        },
        "external_annotations": [],
    } | more


def old_snapshot(allocator: Allocator) -> list[dict[str, Any]]:
    """The same state as torch 1.13 wrote it: a list of segments, blocks with a history and without an address."""
    segments = []
    for segment in allocator.segments():
        old = {key: segment[key] for key in ("device", "address", "total_size", "stream", "segment_type")}
        old |= {"allocated_size": segment["allocated_size"], "active_size": segment["active_size"], "blocks": []}
        for block in segment["blocks"]:
            made = {"size": block["size"], "state": block["state"]}
            if block["state"] != "inactive":
                entry = {"addr": block["address"], "real_size": block["requested_size"], "frames": block["frames"]}
                made["history"] = [entry]
            old["blocks"].append(made)
        segments.append(old)
    return segments


def dump(value: Any, path: Any, protocol: int | None = None) -> Any:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


LAYERS = 4
PARAMETER, ACTIVATION, SCRATCH = 8 * MIB, 20 * MIB + 100, 30 * MIB


@dataclass
class Training:
    """A training of four layers with AdamW, step by step."""

    device: Allocator
    keep_losses: bool = False
    parameters: list[int] = field(default_factory=list)
    gradients: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def build(self) -> Training:
        self.parameters = [self.device.alloc(PARAMETER, CONSTRUCT, "parameters") for _ in range(LAYERS)]
        return self

    def steps(self, count: int) -> Training:
        for index in range(count):
            self.step(states=index == 0)
        return self

    def forward(self) -> tuple[int, list[int]]:
        device = self.device
        batch = device.alloc(3 * MIB, BATCH, "other")
        saved = []
        for layer in range(LAYERS):
            saved.append(device.alloc(ACTIVATION, module(40, 12 + layer), "activations"))
            scratch = device.alloc(SCRATCH, module(40, 12 + layer, "activation"), "workspace")
            device.free(scratch, module(40, 12 + layer, "activation"))
        if self.keep_losses:
            self.kept.append(device.alloc(5 * MIB, module(41, 30, "loss"), "retained"))
        return batch, saved

    def backward(self, saved: list[int]) -> None:
        device = self.device
        for activation in reversed(saved):
            scratch = device.alloc(SCRATCH, BACKWARD, "workspace")
            self.gradients.append(device.alloc(PARAMETER, BACKWARD, "gradients"))
            device.free(activation, BACKWARD)
            device.free(scratch, BACKWARD)

    def step(self, *, states: bool) -> None:
        device = self.device
        batch, saved = self.forward()
        self.backward(saved)
        if states:
            for _ in range(2 * LAYERS):
                device.alloc(PARAMETER, STATES, "optimizer")
        update = [device.alloc(PARAMETER, UPDATE, "workspace") for _ in range(LAYERS)]
        for address in update:
            device.free(address, UPDATE)
        for address in self.gradients:
            device.free(address, ZERO_GRAD)
        self.gradients = []
        device.free(batch, BATCH)
