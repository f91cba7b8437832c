"""Numbers and places as a person reads them, in the sentences of findings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from profiler.analysis.facts import Facts
from profiler.analysis.site import Site


def ms(value: float) -> str:
    """Milliseconds with the digits that matter: "0.43 ms", "4.3 ms", "48 ms", "12.3 s"."""
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    if value >= 10:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def percent(share: float) -> str:
    """A share as "62 %"; small ones with one decimal."""
    return f"{share * 100:.0f} %" if share >= 0.095 or share == 0 else f"{share * 100:.1f} %"


def seconds(value: float) -> str:
    """A stretch of the run: "4.2 s", "38 s", "12 min", "3.1 h"."""
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes as "512 B", "3.2 MiB", "1.4 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def number(count: float) -> str:
    """A count with thousands set apart: "12,000"."""
    return f"{count:,.0f}"


def about(count: float) -> str:
    """An estimate, to two digits that matter from 1,000 on: "7,700"."""
    if count >= 1000:
        magnitude = 10 ** (len(str(int(count))) - 2)
        count = round(count / magnitude) * magnitude
    return f"{count:,.0f}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 worker`, `4 workers`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def place(site: Site, facts: Facts) -> str:
    """`file:line` as seen from the user's folder."""
    path = PurePath(site.file)
    if facts.root and path.is_relative_to(facts.root):
        path = path.relative_to(facts.root)
    return f"{path}:{site.line}"


def joined(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *rest, last = list(words) or [""]
    return f"{', '.join(rest)} and {last}" if rest else last
