"""Snapshots are read as torch writes them, and refused in one sentence where they are none."""

from __future__ import annotations

import contextlib
import io
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_builder import CONSTRUCT, MIB, Allocator, Training, dump, old_snapshot, snapshot
from torch.cuda import _memory_viz

from profiler.errors import ProfError
from profiler.record.snapshot import ALLOCATED, NO_STACK, normalise, read_snapshot


def trained():
    return Training(Allocator()).build().steps(2).device


def refused(value, says):
    with pytest.raises(ProfError, match=says) as caught:
        normalise(value, "it.pickle", 10_000)
    assert "\n" not in str(caught.value)


def test_torchs_own_viewer_takes_what_the_builder_writes():
    device = trained()
    device.capacity = device.reserved
    with contextlib.suppress(MemoryError):
        device.alloc(4000 * MIB, CONSTRUCT)
    value = snapshot(device)
    assert "OutOfMemoryError" in _memory_viz.trace(value)
    assert "total_allocated" in _memory_viz.segsum(value)
    assert "active_allocated" in _memory_viz.memory(value, format_flamegraph=lambda text: text)
    assert "snapshot.pickle" in _memory_viz.trace_plot(value)
    assert "active_allocated" in _memory_viz.segments({"segments": old_snapshot(trained())}, lambda text: text)
    with contextlib.redirect_stdout(io.StringIO()):
        left = _memory_viz.filter_alloc_free_pairs(snapshot(trained()))["device_traces"][0]
    assert len([event for event in left if event["action"] == "alloc"]) == 12  # parameters and states stay


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_is_read_whatever_its_protocol(tmp_path, protocol):
    value = snapshot(trained())
    read = read_snapshot(dump(value, tmp_path / "it.pickle", protocol))
    assert read.layout == "current"
    assert len(read.events[0]) == len(value["device_traces"][0])
    assert read.settings["max_split_size"] == 2**64 - 1
    assert sum(segment.size for segment in read.segments) == sum(it["total_size"] for it in value["segments"])
    assert len(read.stacks) < 20  # equal stacks are one


def test_the_public_list_of_segments_is_read():
    value = snapshot(trained())["segments"]
    read = normalise(value, "it.pickle", 100_000)
    assert read.layout == "segments"
    assert read.events == {}


def test_blocks_without_addresses_lie_one_behind_the_other():
    device = trained()
    new, old = (normalise(value, "it", 10**6) for value in (snapshot(device), old_snapshot(device)))
    assert [(b.address, b.size, b.state) for s in old.segments for b in s.blocks] == [
        (b.address, b.size, b.state) for s in new.segments for b in s.blocks
    ]


def test_a_block_without_a_stack_is_not_one_with_an_empty_stack():
    segment = {"address": 0, "total_size": 512, "blocks": [{"size": 512, "state": "active_allocated"}]}
    read = normalise([segment], "it", 1000)
    (block,) = read.segments[0].blocks
    assert (block.state, block.requested, block.stack) == (ALLOCATED, 512, NO_STACK)


def test_events_of_an_unknown_kind_are_counted():
    value = snapshot(trained())
    value["device_traces"][0].append({"action": "segment_melt", "addr": 0, "size": 0})
    assert normalise(value, "it", 10**6).unknown == 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (7, "no list of segments"),
        ({}, "no list of segments"),
        ({"traceEvents": []}, "no list of segments"),
        ({"segments": [], "device_traces": {}}, None),
        ({"segments": [], "device_traces": {"a": 1}}, "a dict where a list belongs"),
        ({"segments": [7]}, "segment 0 is a int where a dict belongs"),
        ({"segments": [{}]}, "blocks of segment 0 is missing"),
        ({"segments": [{"blocks": [{"size": "big", "state": "inactive"}]}]}, "size of block 0 of segment 0 is a text"),
        ({"segments": [{"blocks": [{"size": -1, "state": "inactive"}]}]}, "which no memory has"),
        ({"segments": [{"blocks": [{"size": 1, "state": "melted"}]}]}, "state of block 0 of segment 0 is 'melted'"),
        ({"segments": [], "device_traces": [[7]]}, "event 0 of device 0 is a int"),
        ({"segments": [], "device_traces": [[{"action": "alloc", "addr": 1.5}]]}, "addr of event 0"),
        ({"segments": [], "device_traces": [[{"action": "alloc", "frames": "x"}]]}, "frames of event 0"),
        ({"segments": [], "device_traces": [[{"action": "alloc", "frames": [7]}]]}, "a frame of event 0"),
        ({"segments": [], "device_traces": [[{}]] * 5000}, "devices"),
    ],
)
def test_what_is_no_snapshot_is_told_in_one_sentence(value, says):
    if says is None:
        normalise(value, "it.pickle", 100)
    else:
        refused(value, says)


def test_one_list_in_many_places_is_refused_and_not_walked():
    blocks = [{"size": 512, "state": "inactive"}] * 1000
    refused({"segments": [{"blocks": blocks}] * 1000}, "larger than its file")


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ProfError, match="can't be read: No such file"):
        read_snapshot(tmp_path / "none.pickle")


@pytest.mark.parametrize("path", ["/dev/zero", "/tmp"])
def test_what_is_no_file_is_not_read(path):
    with pytest.raises(ProfError, match="is not a file"):
        read_snapshot(Path(path))


def test_a_file_larger_than_memory_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "it.pickle").open("wb") as file:
        file.truncate(1 << 40)  # sparse: it takes no room
    with pytest.raises(ProfError, match="GiB are free"):
        read_snapshot(tmp_path / "it.pickle")


KEYS = (
    "segments device_traces blocks frames history size state action addr address device filename line name "
    "total_size external_annotations stage time_us allocator_settings"
)
keys = st.sampled_from(KEYS.split())
words = st.sampled_from(["alloc", "free_completed", "oom", "active_allocated", "inactive", "START", "x"])
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.just(2**70) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=30,
)


@given(junk, junk)
@settings(max_examples=300)
def test_no_plain_data_raises_anything_but_a_sentence(segments, traces):
    from profiler.analysis.snapshot.build import snapshot_facts

    value = {"segments": segments if isinstance(segments, list) else [segments], "device_traces": traces}
    try:
        snapshot_facts(normalise(value, "it.pickle", len(pickle.dumps(value))), "it.pickle")
    except ProfError:
        pass


whole = st.integers(0, 40)
events = st.lists(
    st.fixed_dictionaries(
        {
            "action": st.sampled_from(
                ["alloc", "free_requested", "free_completed", "segment_alloc", "segment_free", "segment_map", "oom"]
            ),
            "addr": whole.map(lambda n: n * 512),
            "size": whole.map(lambda n: n * 512),
            "frames": st.sampled_from([[], CONSTRUCT]),
        }
    ),
    max_size=30,
)


@given(events)
@settings(max_examples=200)
def test_events_in_any_order_are_survived(trace):
    from profiler.analysis.snapshot.build import snapshot_facts

    value = {"segments": Training(Allocator()).build().device.segments(), "device_traces": [trace]}
    facts = snapshot_facts(normalise(value, "it.pickle", 10**6), "it.pickle")
    for device in facts.devices:
        assert device.held_bytes >= 0
        assert sum(device.categories_bytes.values()) == device.held_bytes
