"""Read a pickle that nobody vouches for: plain data or nothing.

In:  the bytes of a pickle, of protocol 2 to 5.
Out: dicts, lists, tuples of numbers, strings, bytes, numbers, booleans and None; otherwise a `ProfError`. With `pairs`
     also tuples of two strings, as the flight recorder names a process group.

A pickle is a program. Every instruction is looked at before any is run, and only those pass that make plain data:
none that names, calls or builds an object, and none whose cost is out of proportion to its bytes (a far slot of
the memo, a tuple within a tuple, whose hash recurses). What passed is run by an `Unpickler` that finds no class.
"""

from __future__ import annotations

import gc
import io
import pickle
import pickletools
import re
from typing import Any, NoReturn

import psutil

from profiler.errors import ProfError

BYTES_PER_BYTE = 12  # memory that the objects take for each byte of the pickle: 5 as a rule, 13 for many small ints
BYTES_PER_CONTAINER = 64  # an empty dict is one byte of the pickle
MANY = 4000  # instructions that one match swallows: the regular expression keeps a record of each

_SHORT_LONG = b"|".join(b"\\x%02x.{%d}" % (size, size) for size in range(9))
_FRAME = rb"\x95.{8}"  # it may begin anywhere
_INT = (  # within 64 bits: the hashes of greater ones collide at will
    rb"(?:K.|M..|J.{4}|\x8a(?:" + _SHORT_LONG + rb"|\x09.{8}\x00))(?:" + _FRAME + rb")?"
)
_GET = rb"(?:h.|j.{4})"
_SIMPLE = (
    rb"(?:"
    + (_INT * 3 + rb"\x87|" + _INT * 2 + rb"\x86|" + _INT + rb"\x85|" + _INT)  # tuples hold numbers only
    + rb"|[\])}(aesuN\x88\x89\x94]"  # empty containers, mark, append(s), setitem(s), None, True, False, memoize
    + rb"|h.|q.|j.{4}|G.{8}|"  # memo get and put, float
    + _FRAME
    + rb"){1,%d}" % MANY
)
_RUN = re.compile(_SIMPLE, re.DOTALL)
# a pair may be made of what the memo holds, as long as the memo does not get the pair: none lies within another
_NOT_KEPT = rb"\x86(?![qr\x94])"
_RUN_WITH_PAIRS = re.compile(_SIMPLE.replace(b"(?:", b"(?:" + _GET + rb"{2}" + _NOT_KEPT + rb"|", 1), re.DOTALL)
_PAIR_END = re.compile(rb"(?:q.|r.{4}|\x94)?" + _GET + rb"?" + _NOT_KEPT, re.DOTALL)
_MOST_PAIRS = 256  # that hold a string which comes for the first time: these could be nested, so far and no further
_COUNTED = {0x8C: 1, 0x58: 4, 0x8D: 8, 0x43: 1, 0x42: 4}  # strings and bytes, by the width of their length
_PROTOCOL, _STOP, _LONG_BINPUT = 0x80, 0x2E, 0x72
SNAPSHOT = "a snapshot comes from `torch.cuda.memory._dump_snapshot(path)`"
_OTHER_FILES = {
    b"PK": "a zip archive, as `torch.save` writes",
    b"\x1f\x8b": "gzipped: unpack it first",
    b"{": "JSON: if it is a trace, give it to `prof trace`",
}


def load_plain(data: bytes, name: str, pairs: bool = False, kind: str = SNAPSHOT) -> Any:
    """The plain data that a pickle holds; `name` stands for it in errors, and `kind` says what was expected.

    Raises ProfError when it is no pickle, is cut short, holds more than plain data or needs more memory than
    the machine has free.
    """
    check_instructions(data, name, pairs, kind)
    require_memory(len(data), data.count(b"}") + data.count(b"]"), name)
    collecting = gc.isenabled()
    gc.disable()  # millions of containers, none of them garbage: collecting takes most of the time
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except (MemoryError, OverflowError) as error:
        raise ProfError(f"{name} needs more memory than there is: record fewer events (max_entries).") from error
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise ProfError(f"{name} is a damaged pickle ({_sentence(error)}): copy or record it again.") from error
    finally:
        if collecting:
            gc.enable()


def check_instructions(data: bytes, name: str, pairs: bool = False, kind: str = SNAPSHOT) -> None:
    """Raise ProfError unless every instruction up to the end makes plain data."""
    if data[:1] != b"\x80" or data[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
        _refuse_other_file(data, name, kind)
    at, end = 2, len(data)
    simple, pairs_left = (_RUN_WITH_PAIRS, _MOST_PAIRS) if pairs else (_RUN, 0)
    while at < end:
        run = simple.match(data, at)
        if run:
            at = run.end()
            continue
        code = data[at]
        if code == _STOP:
            return
        if code in _COUNTED:
            width = _COUNTED[code]
            at += 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
            pair = _PAIR_END.match(data, at) if pairs_left else None
            if pair:
                at, pairs_left = pair.end(), pairs_left - 1
        elif code == _LONG_BINPUT:
            if int.from_bytes(data[at + 1 : at + 5], "little") > end:
                raise ProfError(f"{name} asks for a memo larger than itself: it was made to exhaust memory; not read.")
            at += 5
        elif code == _PROTOCOL:
            at += 2
        else:
            _refuse_instruction(data, at, name)
    raise _cut_short(name, end)


class _Unpickler(pickle.Unpickler):
    """Finds no class and no persistent object: what `check_instructions` let pass asks for neither."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it names an object outside of itself")


def require_memory(size: int, containers: int, name: str) -> None:
    """Raise ProfError where a pickle of that size, with so many containers, may not fit in what is free."""
    needed = BYTES_PER_BYTE * size + BYTES_PER_CONTAINER * containers
    free = psutil.virtual_memory().available
    if needed > free:
        raise ProfError(
            f"{name} may need {needed / 2**30:.1f} GiB of memory to be read and {free / 2**30:.1f} GiB are free: "
            "read it on a larger machine, or record fewer events (max_entries)."
        )


def _refuse_other_file(data: bytes, name: str, kind: str) -> NoReturn:
    if not data:
        raise ProfError(f"{name} is empty.")
    found = next(
        (text for start, text in _OTHER_FILES.items() if data.startswith(start)), "no pickle of protocol 2 to 5"
    )
    raise ProfError(f"{name} is {found}; {kind}.")


def _refuse_instruction(data: bytes, at: int, name: str) -> NoReturn:
    known = {ord(each.code): each.name for each in pickletools.opcodes}
    code = data[at]
    if _may_be_cut(code, len(data) - at):
        raise _cut_short(name, len(data))
    word = known.get(code, f"unknown instruction {code:#04x}")
    raise ProfError(
        f"{name} is not plain data: its instruction {word} at byte {at:,} could run code or exhaust memory; "
        "it was not read."
    )


def _may_be_cut(code: int, left: int) -> bool:
    """Whether a known instruction did not match only because the file ends within it."""
    widths = {ord("K"): 2, ord("M"): 3, ord("J"): 5, ord("h"): 2, ord("q"): 2, ord("j"): 5, ord("G"): 9, 0x95: 9}
    return left < (widths.get(code) or (11 if code == 0x8A else 0))


def _cut_short(name: str, size: int) -> ProfError:
    return ProfError(f"{name} ends too early, after {size:,} bytes: it was cut short; copy or record it again.")


def _sentence(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
