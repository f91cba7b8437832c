"""What a snapshot is said to hold, against an allocator that knows."""

from __future__ import annotations

import pickle

import pytest
from snapshot_builder import (
    BATCH,
    CONSTRUCT,
    EMPTY_CACHE,
    LAYERS,
    MIB,
    MODEL,
    PARAMETER,
    TORCH,
    TRAIN,
    Allocator,
    Training,
    frame,
    main,
    module,
    old_snapshot,
    snapshot,
)

from profiler.analysis.site import Site
from profiler.analysis.snapshot.build import snapshot_facts
from profiler.record.snapshot import normalise


def explain(value):
    return snapshot_facts(normalise(value, "it.pickle", len(pickle.dumps(value))), "it.pickle")


def fullest(device: Allocator):
    return max(device.history, key=lambda held: sum(held.values()))


def by_size(held):
    return {name: size for name, size in sorted(held.items(), key=lambda item: -item[1]) if size}


@pytest.mark.parametrize("free_stacks", ["all", "alloc", "none"])
@pytest.mark.parametrize("steps", [1, 3])
def test_categories_at_the_peak_are_those_of_the_training(steps, free_stacks):
    training = Training(Allocator(free_stacks=free_stacks)).build().steps(steps)
    device = explain(snapshot(training.device)).devices[0]
    assert device.moment == "peak"
    assert device.held_bytes == sum(fullest(training.device).values())
    assert device.categories_bytes == fullest(training.device)
    assert device.unmatched_events == 0
    assert device.steps == steps


def test_every_moment_is_replayed_to_what_was_held_then():
    training = Training(Allocator()).build().steps(2)
    device = explain(snapshot(training.device)).devices[0]
    assert device.line.event == tuple(range(len(training.device.trace)))
    assert list(device.line.held_bytes) == [sum(held.values()) for held in training.device.history]
    for index, held in enumerate(training.device.history):
        said = {name: row[index] for name, row in device.line.categories_bytes.items() if row[index]}
        assert said == {name: size for name, size in held.items() if size}


def test_reserved_memory_is_replayed_too():
    device = Allocator()
    one = device.alloc(30 * MIB, BATCH, "other")
    device.free(one, BATCH)
    device.release(EMPTY_CACHE)
    device.alloc(6 * MIB, BATCH, "other")
    found = explain(snapshot(device)).devices[0]
    assert list(found.line.reserved_bytes) == [30 * MIB, 30 * MIB, 30 * MIB, 30 * MIB, 0, 6 * MIB, 6 * MIB]
    assert (found.emptied, found.retries) == (1, 0)
    assert found.held_bytes == 30 * MIB
    assert found.layout.reserved_bytes == 30 * MIB
    assert found.end.reserved_bytes == 6 * MIB


def test_lines_are_the_users_own():
    training = Training(Allocator()).build().steps(2)
    device = explain(snapshot(training.device)).devices[0]
    activations = {it.site: it.bytes for it in device.holdings if it.category == "activations"}
    assert set(activations) <= {Site(MODEL, 12 + layer, "forward") for layer in range(LAYERS)}
    parameters = next(it for it in device.holdings if it.category == "parameters")
    assert parameters.site == Site(TRAIN, 20, "train")
    assert (parameters.count, parameters.bytes) == (LAYERS, LAYERS * PARAMETER)
    assert parameters.function == "torch.nn.modules.module.convert"
    assert next(it for it in device.holdings if it.category == "gradients").site is None


def test_the_stages_that_made_it_sum_to_what_is_held():
    training = Training(Allocator()).build().steps(2)
    device = explain(snapshot(training.device)).devices[0]
    assert sum(device.stages_bytes.values()) == device.held_bytes
    assert sum(device.categories_bytes.values()) == device.held_bytes
    assert sum(it.bytes for it in device.holdings) == device.held_bytes
    assert device.stages_bytes["startup"] == LAYERS * PARAMETER
    assert device.stages_bytes["optimizer"] == 2 * LAYERS * PARAMETER
    assert device.moment_stage == "backward"


def test_what_each_step_leaves_behind_is_called_retained():
    training = Training(Allocator(), keep_losses=True).build().steps(6)
    device = explain(snapshot(training.device)).devices[0]
    kept = next(it for it in device.holdings if it.category == "retained")
    assert kept.site == Site(MODEL, 30, "forward")
    assert kept.bytes == 5 * 5 * MIB  # those of the five steps before the one of the peak
    assert kept.steps == 5


def test_a_buffer_that_one_step_made_is_not_called_retained():
    device = Allocator()
    training = Training(device).build()
    training.step(states=True)
    device.alloc(8 * MIB, module(40, 12), "workspace of cuBLAS")
    training.step(states=False)
    training.step(states=False)
    assert "retained" not in explain(snapshot(device)).devices[0].categories_bytes


def test_memory_from_before_the_recording_is_called_so_and_guessed_at_no_more():
    device = Allocator()
    device.recording = False
    training = Training(device).build()
    device.recording = True
    training.steps(2)
    found = explain(snapshot(device)).devices[0]
    assert found.first_events_lost
    assert found.categories_bytes["before_recording"] == LAYERS * PARAMETER
    assert "parameters" not in found.categories_bytes


def test_a_ring_buffer_that_lost_the_beginning_keeps_the_categories_of_what_is_held():
    training = Training(Allocator()).build().steps(3)
    whole = explain(snapshot(training.device)).devices[0]
    training.device.trace = training.device.trace[-60:]
    found = explain(snapshot(training.device)).devices[0]
    assert found.first_events_lost
    assert found.unmatched_events == 0
    assert found.end_held_bytes == whole.end_held_bytes
    assert found.categories_bytes["parameters"] == LAYERS * PARAMETER
    assert found.categories_bytes["optimizer"] == 2 * LAYERS * PARAMETER


def test_without_events_it_is_the_end_that_is_explained():
    training = Training(Allocator()).build().steps(1)
    training.forward()
    facts = explain(snapshot(training.device, device_traces=[]))
    device = facts.devices[0]
    assert device.moment == "end"
    assert device.line is None
    assert device.categories_bytes == by_size(training.device.held)
    assert "No events were recorded" in facts.notices[0]


def test_the_layout_of_torch_1_13_says_the_same():
    training = Training(Allocator()).build().steps(1)
    training.forward()
    facts = explain(old_snapshot(training.device))
    assert facts.layout == "history"
    assert facts.devices[0].categories_bytes == by_size(training.device.held)
    assert facts.devices[0].end == explain(snapshot(training.device)).devices[0].end


def test_without_stacks_nothing_is_guessed():
    training = Training(Allocator(stacks=False)).build().steps(2)
    facts = explain(snapshot(training.device))
    device = facts.devices[0]
    assert device.held_bytes == sum(fullest(training.device).values())
    assert set(device.categories_bytes) == {"unknown"}
    assert set(device.stages_bytes) == {""}
    assert not facts.stacks
    assert "No stacks" in facts.notices[0]


def full_of_holes(capacity=100 * MIB):
    """Every second block of a full device is free: half the bytes, in pieces of 10 MiB."""
    device = Allocator(capacity=capacity)
    device.segment(capacity)
    blocks = [device.alloc(10 * MIB, module(40, 12), "activations") for _ in range(capacity // (10 * MIB))]
    for address in blocks[::2]:
        device.free(address, module(40, 12))
    return device


def test_an_allocation_that_failed_for_want_of_a_piece_is_told_from_one_that_failed_for_want_of_memory():
    device = full_of_holes()
    with pytest.raises(MemoryError):
        device.alloc(20 * MIB, module(40, 13), "activations")
    found = explain(snapshot(device)).devices[0]
    (oom,) = found.ooms
    assert found.moment == "out of memory"
    assert (oom.requested_bytes, oom.driver_free_bytes, oom.held_bytes) == (20 * MIB, 0, 50 * MIB)
    assert oom.layout.free_bytes == 50 * MIB
    assert oom.layout.largest_free_bytes == 10 * MIB
    assert oom.layout.split_bytes == 50 * MIB
    assert oom.fragmented
    assert oom.site == Site(MODEL, 13, "forward")

    full = Allocator(capacity=100 * MIB)
    for _ in range(10):
        full.alloc(10 * MIB, module(40, 12), "activations")
    with pytest.raises(MemoryError):
        full.alloc(20 * MIB, module(40, 13), "activations")
    assert not explain(snapshot(full)).devices[0].ooms[0].fragmented


def test_the_layout_at_a_moment_is_that_of_the_moment_and_not_of_the_end():
    device = full_of_holes()
    with pytest.raises(MemoryError):
        device.alloc(20 * MIB, module(40, 13), "activations")
    then = explain(snapshot(device)).devices[0].layout
    for address in list(device.labels):
        device.free(address, BATCH)
    device.release(EMPTY_CACHE)
    found = explain(snapshot(device)).devices[0]
    assert found.layout == then
    assert found.end.reserved_bytes == 0


def test_a_retry_is_what_the_allocator_did_and_not_the_user():
    device = Allocator(capacity=64 * MIB)
    one = device.alloc(40 * MIB, BATCH, "other")
    device.free(one, BATCH)
    device.alloc(50 * MIB, module(40, 12), "activations")  # only once the cached 40 MiB went back
    assert [event["action"] for event in device.trace][-3:] == ["segment_free", "segment_alloc", "alloc"]
    found = explain(snapshot(device)).devices[0]
    assert (found.retries, found.emptied) == (1, 0)


def test_expandable_segments_are_one_piece():
    device = Allocator()
    region = device.segment(40 * MIB)
    region.expandable = True
    device.trace[-1]["action"] = "segment_map"
    region.size += 20 * MIB
    device.event("segment_map", CONSTRUCT, addr=region.address + 40 * MIB, size=20 * MIB)
    device.alloc(10 * MIB, CONSTRUCT, "parameters")
    found = explain(snapshot(device)).devices[0]
    assert found.expandable
    assert found.layout.largest_free_bytes == 50 * MIB
    assert found.layout.segments == 1


def test_devices_are_told_apart():
    one, two = Training(Allocator(0)).build().steps(1), Training(Allocator(1)).build().steps(3)
    devices = explain(snapshot(one.device, two.device)).devices
    assert [device.device for device in devices] == [0, 1]
    assert [device.steps for device in devices] == [1, 3]
    assert [device.held_bytes for device in devices] == [sum(fullest(it.device).values()) for it in (one, two)]


def test_memory_that_another_stream_still_uses_is_held_and_told():
    device = Allocator()
    device.request_free(device.alloc(10 * MIB, BATCH, "other"), BATCH)
    found = explain(snapshot(device)).devices[0]
    assert found.end.held_bytes == 10 * MIB
    assert found.awaiting_free_bytes == 10 * MIB


def test_private_pools_and_rounding_are_told():
    device = Allocator()
    device.alloc(2 * MIB, BATCH, "other", pool=(0, 1))
    device.alloc(100, BATCH, "other")
    found = explain(snapshot(device)).devices[0]
    assert found.graph_bytes == 2 * MIB
    assert found.rounding_bytes == 412


def test_a_recording_that_left_events_out_says_so():
    training = Training(Allocator()).build().steps(2)
    training.device.trace = [event for index, event in enumerate(training.device.trace) if index % 3]
    assert any("don't fit" in notice for notice in explain(snapshot(training.device)).notices)


def test_completed_frees_may_be_left_out():
    training = Training(Allocator()).build().steps(2)
    training.device.trace = [event for event in training.device.trace if event["action"] != "free_completed"]
    device = explain(snapshot(training.device)).devices[0]
    assert device.unmatched_events == 0
    assert device.held_bytes == sum(fullest(training.device).values())


CHECKPOINT = [
    frame(f"{TORCH}/nn/modules/linear.py", 125, "forward"),
    frame(f"{TORCH}/nn/modules/module.py", 1750, "_call_impl"),
    frame(MODEL, 14, "block"),
    frame(f"{TORCH}/utils/checkpoint.py", 1100, "recompute_fn"),
    frame(f"{TORCH}/utils/checkpoint.py", 1130, "unpack_hook"),
]
CUSTOM = [frame(MODEL, 70, "backward"), frame(f"{TORCH}/autograd/function.py", 311, "apply")]
LBFGS = [*module(40, 12), frame(f"{TORCH}/optim/lbfgs.py", 320, "step"), *main(44)]
LOADED = [frame(f"{TORCH}/serialization.py", 1500, "load_tensor"), *main(15)]
DDP = [frame(f"{TORCH}/nn/parallel/distributed.py", 1200, "_ddp_init_helper"), *main(22)]
FSDP = f"{TORCH}/distributed/fsdp/_fully_shard/_fsdp_collectives.py"
GATHERED = [frame(FSDP, 210, "foreach_all_gather"), *module(40, 12)]
REDUCED = [frame(FSDP, 400, "foreach_reduce"), frame(f"{TORCH}/autograd/function.py", 311, "apply")]
NATIVE = [frame("??", 0, "torch::autograd::AccumulateGrad::apply(...)")]
COPIED = [frame("??", 0, "at::_ops::_to_copy::call(...)"), *main(38)]


@pytest.mark.parametrize(
    ("frames", "category", "stage"),
    [
        (CHECKPOINT, "activations", "backward"),
        (CUSTOM, "gradients", "backward"),
        (LBFGS, "activations", "forward"),
        (LOADED, "loaded", "startup"),
        (DDP, "communication", "communication"),
        (GATHERED, "parameters", "communication"),
        (REDUCED, "gradients", "communication"),
        (NATIVE, "gradients", "backward"),
        (COPIED, "other", "host_to_device"),
        (main(38), "other", "other"),
    ],
    ids=["checkpoint", "custom backward", "closure", "torch.load", "DDP", "gather", "reduce", "native", "copy", "loop"],
)
def test_a_stack_tells_who_asked(frames, category, stage):
    device = Allocator()
    device.alloc(MIB, CONSTRUCT, "parameters")
    device.alloc(4 * MIB, frames, "it")
    found = explain(snapshot(device)).devices[0]
    assert next((it.category, it.stage) for it in found.holdings if it.bytes == 4 * MIB) == (category, stage)


def test_categories_that_the_writer_gives_are_taken():
    device = Allocator()
    device.alloc(4 * MIB, main(38), "it")
    device.trace[-1]["category"] = "optimizer_state"
    assert set(explain(snapshot(device)).devices[0].categories_bytes) == {"optimizer"}
