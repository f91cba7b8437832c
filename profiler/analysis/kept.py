"""Which line keeps the graphs of past steps.

In:  `kept` notes, and a way to read the user's lines.
Out: `KeptGraph`s; those of the same name and place once, as they were seen last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from profiler.analysis.facts import KeptGraph
from profiler.analysis.site import Site
from profiler.record.reader import of_kind

ReadLine = Callable[[str, int], str]
_LONGEST_FILE = 20_000
_ADDS = r"\.(append|appendleft|add|insert|setdefault|update)\("
_PLUS = r"\s*(\+=|=\s*{name}\s*\+)"


def kept_graphs(notes: Sequence[dict[str, Any]], read_line: ReadLine) -> tuple[KeptGraph, ...]:
    """What was seen to grow."""
    found: dict[tuple[str, str | None, object], KeptGraph] = {}
    for note in of_kind(notes, "kept"):
        kept = KeptGraph(
            what="sum" if note.get("what") == "sum" else "list",
            count=int(note.get("count") or 0),
            bytes_each=note["bytes_each"] if isinstance(note.get("bytes_each"), int) else None,
            name=str(note["name"]) if note.get("name") else None,
            site=_site(note, read_line),
        )
        key = (kept.what, kept.name, note.get("file"))
        if key in found:
            kept = replace(kept, site=kept.site or found[key].site)
        found[key] = kept
    return tuple(sorted(found.values(), key=lambda kept: -kept.count * (kept.bytes_each or 1)))


def _site(note: Mapping[str, Any], read_line: ReadLine) -> Site | None:
    """The one line in the function's own lines, else in the file, that adds to it."""
    file, lines = note.get("file"), note.get("lines")
    if not (isinstance(file, str) and isinstance(lines, list)):
        return None
    pattern = _pattern(str(note["name"]) if note.get("name") else None, note.get("what") == "sum")
    own = [line for line in lines if isinstance(line, int)]
    number = _only_line(file, own, pattern, read_line)
    if number is not None:
        return Site(file, number, str(note.get("function") or ""))
    if note.get("name") is None:  # without a name another function's lines tell nothing
        return None
    number = _only_line(file, range(1, _LONGEST_FILE), pattern, read_line)
    return Site(file, number) if number is not None else None


def _pattern(name: str | None, is_sum: bool) -> str:
    variable = rf"\b{re.escape(name)}" if name else r"\b[\w.]+"
    index = r"(\[[^\]]*\])*"
    if is_sum:
        return variable + index + (_PLUS.replace("{name}", variable) if name else r"\s*\+=")
    return rf"{variable}{index}({_ADDS}|\s*\+=|\[[^\]]*\]\s*=)"


def _only_line(file: str, numbers: Iterable[int], pattern: str, read_line: ReadLine) -> int | None:
    found: list[int] = []
    for number in numbers:
        text = read_line(file, number)
        if not text:  # beyond the end: an empty line reads "\n"
            break
        if re.search(pattern, text.split("#", 1)[0]):
            found.append(number)
    return found[0] if len(found) == 1 else None
