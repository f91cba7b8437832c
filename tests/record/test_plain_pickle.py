"""Pickles that would run code, or exhaust memory, are refused before anything of them runs."""

from __future__ import annotations

import builtins
import copyreg
import os
import pickle
import random
import struct
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.errors import ProfError
from profiler.record.plain_pickle import check_instructions, load_plain

PROTOCOLS = (2, 3, 4, 5)


def refused(data: bytes) -> str:
    with pytest.raises(ProfError) as caught:
        load_plain(data, "it.pickle")
    text = str(caught.value)
    assert text.startswith("it.pickle ")
    assert "\n" not in text
    return text


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("hidden", [False, True], ids=["bare", "within"])
def test_no_function_is_called(tmp_path, protocol, hidden):
    sign = tmp_path / "it-ran"
    for evil in (
        Calls(os.system, f"touch {sign}"),
        Calls(builtins.eval, f"open({str(sign)!r}, 'w')"),
        Calls(builtins.exec, f"open({str(sign)!r}, 'w')"),
        Calls(subprocess.check_call, ["touch", str(sign)]),
        Calls(builtins.getattr, os, "system"),
    ):
        value = {"segments": [], "device_traces": [[evil]]} if hidden else evil
        try:
            data = pickle.dumps(value, protocol=protocol)
        except (pickle.PicklingError, TypeError):  # a module is no argument
            continue
        assert "run code" in refused(data)
    assert not sign.exists()


class Plain:
    def __init__(self):
        self.name = "it"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [Plain(), Plain, {1, 2}, frozenset({1}), 1j, bytearray(b"x"), range(3), print])
def test_only_plain_data_is_admitted(value, protocol):
    assert "not plain data" in refused(pickle.dumps(value, protocol=protocol))


def test_a_registered_extension_is_not_looked_up():
    copyreg.add_extension(__name__, "Plain", 231)
    try:
        assert "EXT1" in refused(pickle.dumps(Plain, protocol=2))
    finally:
        copyreg.remove_extension(__name__, "Plain", 231)


def test_persistent_ids_are_refused(tmp_path):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return "elsewhere" if value == "it" else None

    with (tmp_path / "it").open("wb") as file:
        Pickler(file, protocol=4).dump(["it"])
    assert "BINPERSID" in refused((tmp_path / "it").read_bytes())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("GLOBAL", b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00true\x85R."),
        ("INST", b"\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n."),
        ("STACK_GLOBAL", b"\x80\x04\x8c\x02os\x8c\x06system\x93."),
        ("BUILD", b"\x80\x04}}b."),
        ("DUP", b"\x80\x04]2."),
        ("NEXT_BUFFER", b"\x80\x05\x97."),
        ("BYTEARRAY8", b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"."),
        ("LONG4", b"\x80\x04\x8b" + struct.pack("<i", 1 << 30) + b"."),
        ("LONG1", b"\x80\x04\x8a\xff" + b"\xff" * 255 + b"."),
        ("unknown instruction 0xfe", b"\x80\x04\xfe."),
    ],
)
def test_an_instruction_that_plain_data_does_not_need_is_named(name, data):
    assert name in refused(data)


def test_a_far_slot_of_the_memo_is_refused_before_it_is_filled():
    start = time.monotonic()
    assert "memo" in refused(b"\x80\x04]r\xff\xff\xff\x7f.")
    assert time.monotonic() - start < 5  # filling it would take 32 GiB


def test_tuples_within_tuples_are_refused_since_their_hash_recurses():
    deep = b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"Ns."
    assert "TUPLE1" in refused(deep)


def test_a_claim_of_bytes_that_are_not_there_is_a_file_cut_short():
    assert "cut short" in refused(b"\x80\x04B\xff\xff\xff\x7f.")
    assert "cut short" in refused(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".")


def test_a_bomb_of_empty_dicts_needs_more_memory_than_is_free(monkeypatch):
    from profiler.record import plain_pickle

    monkeypatch.setattr(plain_pickle.psutil, "virtual_memory", lambda: type("M", (), {"available": 32 << 20})())
    assert "GiB are free" in refused(b"\x80\x04](" + b"}" * 1_000_000 + b"e.")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"PK\x03\x04", "torch.save"),
        (b"\x1f\x8b\x08", "gzipped"),
        (b'{"traceEvents": []}', "prof trace"),
        (b"(lp0\n.", "protocol"),
        (b"\x80\x09.", "protocol"),
        (b"\x80\x04.", "damaged"),
        (b"\x80\x04h\x05.", "damaged"),
        (b"\x80\x04e.", "damaged"),
        (b"\x80\x04}]Ns.", "damaged"),
        (b"\x80\x04]N", "cut short"),
        (b"\x80\x04]K", "cut short"),
    ],
)
def test_what_is_no_pickle_is_told_in_one_sentence(data, says):
    assert says in refused(data)


def test_every_place_to_cut_gives_a_sentence():
    data = pickle.dumps([{"addr": 2**46, "size": 300, "name": "x" * 300, "frames": [(0, 0)], "t": 1.5}] * 2, protocol=4)
    for end in range(len(data)):
        refused(data[:end])


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(st.integers(0, 9), st.integers(0, 2**40))
    ),
)


@given(plain, st.sampled_from(PROTOCOLS[1:]))  # protocol 2 names a function to write bytes
def test_plain_data_comes_back_as_it_was(value, protocol):
    assert load_plain(pickle.dumps(value, protocol=protocol), "it.pickle") == value


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data):
    try:
        load_plain(b"\x80\x04" + data, "it.pickle")
    except ProfError:
        pass


def test_a_frame_may_begin_anywhere():
    dice = random.Random(7)
    value = [{"pool": (dice.randrange(3), dice.randrange(1 << 40)), "frames": ["x" * 50]} for _ in range(20_000)]
    for protocol in PROTOCOLS:
        data = pickle.dumps(value, protocol=protocol)
        check_instructions(data, "it.pickle")
        assert load_plain(data, "it.pickle") == value
