"""How the numbers and names of a run read.

In:  values of `facts` (milliseconds, bytes, shares, sites).
Out: short text, the same in the terminal and in HTML. None never becomes 0: callers leave it out.
"""

from __future__ import annotations

import math
import re
import unicodedata
from pathlib import PurePath

from profiler.analysis.facts import Facts
from profiler.analysis.site import Site
from profiler.rules.base import Finding, Gain

TO = "\u2013"  # between the ends of a range
TIMES = "\u00d7"
THIN = "\u202f"  # narrow no-break space between a number and its unit
_UNIT = re.compile(r"(?<=\d) (?=(?:%|µs|ms|s|min|h|[kMGT]?i?B|[KMGT]iB)(?![\w/]))")
STAGE_LABELS = {
    "data_wait": "data wait",
    "host_to_device": "host to device",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
    "communication": "communication",
    "other": "other",
}
SPAN_LABELS = {"instrument": "prof itself"}


def label(name: str) -> str:
    """A stage, span or measurement as people write it."""
    return STAGE_LABELS.get(name) or SPAN_LABELS.get(name) or name.replace("_", " ")


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without exponent, thousands separated."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "not finite"
    rounded = float(f"{value:.{digits}g}")  # 99.96 has to count as 100 before decimals are chosen
    decimals = max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)
    return f"{rounded if decimals else round(value):,.{decimals}f}"


def unbroken(text: str) -> str:
    """The text with each number kept on the line of its unit."""
    return _UNIT.sub(THIN, text)


def _unit(milliseconds: float) -> tuple[float, str]:
    size = abs(milliseconds)
    if size >= 10_000:
        return 1e-3, "s"
    return (1e3, "µs") if 0 < size < 0.0995 else (1.0, "ms")


def ms(value: float) -> str:
    """A time given in milliseconds: `63.0 ms`, `41 µs`, `12.3 s`."""
    factor, unit = _unit(value)
    digits = 2 if unit == "µs" or 0 < abs(value) < 0.995 else 3
    return f"{significant(value * factor, digits)}{THIN}{unit}"


def ms_range(low: float, high: float) -> str:
    """Two times in milliseconds, in the unit of the larger: `21.4 to 24.9 ms`, with a dash."""
    factor, unit = _unit(high)
    last = significant(high * factor, 2 if unit == "\u00b5s" or 0 < high < 0.995 else 3)
    decimals = len(last.partition(".")[2])
    first = f"{low * factor:,.{decimals}f}"
    if low > 0 and float(first.replace(",", "")) == 0:
        first = significant(low * factor, 2)
    return f"{first}{THIN}{unit}" if first == last else f"{first}{TO}{last}{THIN}{unit}"


def share(value: float) -> str:
    """A fraction as a percentage: `65.4 %`."""
    if 0 < value < 0.0005:
        return f"<0.1{THIN}%"
    return f"{100 * value:.1f}{THIN}%"


def seconds(value: float) -> str:
    """A length given in seconds: `0.42 s`, `4 min 12 s`, `2 h 05 min`."""
    if value < 120:
        return f"{significant(value, 3 if value >= 1 else 2)}{THIN}s" if value >= 0.0995 else ms(value * 1000)
    whole = round(value)
    if whole < 7200:
        return f"{whole // 60}{THIN}min {whole % 60:02d}{THIN}s"
    return f"{whole // 3600:,}{THIN}h {whole % 3600 // 60:02d}{THIN}min"


def byte_size(value: float) -> str:
    """Bytes: `312 MiB`."""
    size = abs(value)
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 0.9995 * 1024**power:
            return f"{significant(value / 1024**power)}{THIN}{unit}"
    return f"{significant(value)}{THIN}B"


def count(value: float) -> str:
    """A count: `1,000,000`; `1.5` when it is a mean."""
    return f"{value:,.0f}" if float(value).is_integer() else significant(value)


def plural(number: float, noun: str) -> str:
    """`1 step`, `12 steps`, `3 batches`."""
    ending = "" if number == 1 else ("es" if noun.endswith(("s", "ch", "x")) else "s")
    return f"{count(number)} {noun}{ending}"


def times(low: float, high: float) -> str:
    """A speedup, as a range."""
    decimals = 2 if high < 1.95 else 1
    first, last = f"{low:.{decimals}f}", f"{high:.{decimals}f}"
    return f"{first}{TIMES}" if first == last else f"{first}{TO}{last}{TIMES}"


def gain(value: Gain) -> str:
    """How much faster a step would be, and what it would take."""
    faster = times(value.speedup_low, value.speedup_high)
    return f"{faster} faster: {ms_range(value.step_ms_low, value.step_ms_high)} a step"


_EVIDENCE = {  # what the names alone don't say
    "cause_ms": "longer there than the others",
    "exposed_ms": "exposed, waiting included",
    "late_ms": "comes late by",
    "late_steps_share": "steps in which it comes last",
    "message_bytes": "size of a message",
    "messages_ms": "all messages",
    "network_ms": "transfer",
    "others_ms": "the others there",
    "own_ms": "that rank there",
    "shortest_ms": "shortest message",
    "turns_ms": "waiting for each other",
    "waiting_ms": "waiting for late ranks",
}


def evidence(name: str, value: float) -> tuple[str, str]:
    """A rule's evidence as label and text; the unit is the ending of its name.

    A share says so, since what it is a share of often stands beside it.
    """
    said, text = _evidence(name, value)
    return _EVIDENCE.get(name, said), text


def _evidence(name: str, value: float) -> tuple[str, str]:
    if name.endswith("_share"):
        return label(name), share(value)
    if name.startswith("bytes_"):
        return f"size {label(name.removeprefix('bytes_'))}", byte_size(value)
    endings = {"_ms": ms, "_bytes": byte_size, "_s": seconds}
    for ending, text in endings.items():
        if name.endswith(ending):
            return label(name.removesuffix(ending)), text(value)
    if name.endswith("_us"):
        return label(name.removesuffix("_us")), ms(value / 1000)
    return label(name), count(value)


def shown_path(file: str, root: str) -> str:
    """A file as seen from the run's own folder, where it lies below it."""
    if root:
        try:
            return PurePath(file).relative_to(root).as_posix()
        except ValueError:
            pass
    return file


def place(site: Site, root: str) -> str:
    """`train.py:41`."""
    return f"{shown_path(site.file, root)}:{site.line}"


def fix_place(finding: Finding, root: str) -> str | None:
    """Where a finding's fix belongs, if that is known."""
    if finding.fix.file is None:
        return None
    line = "" if finding.fix.line is None else f":{finding.fix.line}"
    return f"{shown_path(finding.fix.file, root)}{line}"


def printable(text: str) -> str:
    """Text that can't steer a terminal: control and direction characters become visible."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        ascii(character)[1:-1] if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character
        for character in text
    )


def of_rank(facts: Facts) -> str:
    """Of which of several ranks the step's figures are: " of rank 2"; "" where there is one, or it is not told."""
    ranks, steps = facts.ranks, facts.steps
    if ranks is None or len(ranks.rows) < 2 or steps is None:
        return ""
    like = [row.rank for row in ranks.rows if (row.steps, row.step_ms) == (steps.count, steps.mean_ms)]
    return f" of rank {like[0]}" if len(like) == 1 else ""


def host_times_note(facts: Facts) -> str | None:
    """What the reader of stage times must know when the host's clock timed work of an asynchronous device."""
    if not facts.machine.asynchronous or facts.machine.device_times:
        return None
    if facts.device is not None:
        return (
            f"Stages are timed on the host, and {facts.machine.device} runs behind it: a long stage may be one that "
            "waits for another's work. The report sets what it cost the device beside it."
        )
    return (
        f"These are host times: {facts.machine.device} runs behind the host, and its own clock was not read. "
        "Work that one stage queues is paid where the host next waits, so a long stage may be waiting for "
        "another's work."
    )


def overhead(facts: Facts) -> str | None:
    """The tool's own cost in a clause; None when it was not measured."""
    cost = facts.overhead
    parts = []
    if cost.us_per_step is not None:
        of_step = f" ({share(cost.share)} of a step)" if cost.share is not None else ""
        parts.append(f"about {ms(cost.us_per_step / 1000)} a step{of_step}")
    if cost.instrument_s > 0:
        parts.append(f"{seconds(cost.instrument_s)} in spans outside these figures")
    return ", and ".join(parts) or None
