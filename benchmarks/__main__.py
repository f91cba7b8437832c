"""Run the benchmarks and print what they found, as the tables of docs/performance.md.

python -m benchmarks                      all of them
python -m benchmarks overhead accuracy    some
python -m benchmarks --write              all of them, into docs/performance.md and docs/rules
python -m benchmarks gains --write        what rules promise beside what their cures give, into docs/rules
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import accuracy, ending, gains, many_ranks, overhead, ranks, startup, traces

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

HEAD = """# What the tool costs, and how true it is

Written by `python -m benchmarks --write` (`make bench` prints the same); each part alone by
`python -m benchmarks NAME`. Figures of one machine: {machine}. Ratios matter; absolutes drift.
"""


def overhead_table() -> str:
    """What recording adds to a step."""
    rows = [
        f"| {cost.case} | {cost.what} | {cost.clock} | {cost.step_us:,.0f} µs | {cost.added} | {cost.ratio:.4f}× | "
        f"{cost.control} |"
        for cost in overhead.run()
    ]
    return _table(
        "overhead",
        "Cost in the training loop",
        "One process. *hooks*: what each step pays; steps with every hook in its place and with every hook taken out "
        "in turn, while recording goes on. *all*: long blocks with and without recording in turn, with the sampler's "
        "looks and the record's way to the disk. Controls compare without and without. Medians, in brackets the "
        "interval that holds them 95 times of 100. *CPU* is the training thread's own time, without that of programs "
        "that take the core meanwhile. Aim: 10 µs a step, and 1.01× at a step of about 1 ms.",
        ("loop", "of", "time", "step", "recording adds", "ratio", "control"),
        rows,
    )


def ranks_table() -> str:
    """What seeing communication adds to a step."""
    rows = [
        f"| {cost.case} | {cost.clock} | {cost.step_us:,.0f} µs | {cost.added} | {cost.control} | "
        f"{cost.beyond or ''} | {cost.beyond_control or ''} |"
        for cost in ranks.run()
    ]
    return _table(
        "ranks",
        "Cost of seeing communication",
        "On a rank that is alone in its group. *Adds*: short blocks with and without recording in turn; *beyond*: what "
        "of it the hooks of communication cost, of two like loops in turn, one with them and one without. Controls "
        "compare like with like. Medians, in brackets the interval that holds them 95 times of 100. *CPU* is the "
        "training thread's own time, without that of programs that take the core meanwhile. Must: 15 µs beyond.",
        ("loop", "time", "step", "recording adds", "control", "beyond a lone process", "control"),
        rows,
    )


def many_ranks_table() -> str:
    """Merging and reporting jobs of very many ranks."""
    rows = [
        f"| {job.ranks:,} | {job.seconds:.1f} s | {job.cpu_s:.1f} s | {job.rss_mb:,.0f} MB | {job.page_mb:.2f} MB | "
        f"{job.found} of {job.planted} | {job.clock_error_ms:.1f} ms |"
        for job in many_ranks.run()
    ]
    return _table(
        "many_ranks",
        "Jobs of very many ranks",
        "Facts of ranks from a simulation, on hosts of eight ranks whose clocks differ by seconds and drift; one "
        "`prof merge` of two folders, report included. Must, at 1,024 ranks: 10 s and 1 GB, a page of 3 MB.",
        ("ranks", "seconds", "of them CPU", "resident memory", "page", "late ranks found", "clocks told within"),
        rows,
    )


def accuracy_table() -> str:
    """Stage times against hand timers."""
    rows = [
        f"| {row.case} | {row.stage} | {row.by_hand_ms:.3f} ms | {row.ours_ms:.3f} ms | {row.error_share:+.1%} | "
        f"{'yes' if row.holds else '**no**'} |"
        for row in accuracy.run()
    ]
    return _table(
        "accuracy",
        "Stage times against hand timers of the same run",
        "Medians after warm-up. Must: within 2 % for stages of 1 ms and more, 5 % for smaller ones. "
        "That the stages sum to the step exactly is a property test.",
        ("run", "stage", "by hand", "ours", "error", "holds"),
        rows,
    )


def startup_table() -> str:
    """What recording adds to start-up and to memory."""
    added = startup.run()
    return _table(
        "startup",
        "Start-up and memory",
        f"Plain and recorded in turn, {added.pairs} pairs; the control is the median difference between plain runs.",
        ("what", "recording adds", "control", "must"),
        [
            f"| start-up of a script that imports torch | {added.startup_s:+.2f} s | "
            f"{added.startup_control_s:.2f} s | ≤ 0.3 s |",
            f"| resident memory of the training process | {added.rss_mb:+.1f} MB | "
            f"{added.rss_control_mb:.1f} MB | ≤ 30 MB |",
        ],
    )


def ending_table() -> str:
    """From the training's end to the report."""
    return _table(
        "ending",
        "From the training's end to the report on disk",
        "10,000 steps: a real training, from its last line to the end of `prof attach`. 1,000,000: a record written "
        "at once and followed as `prof attach` follows it, then `prof report`.",
        ("steps", "seconds", "must"),
        [
            f"| 10,000 | {ending.after_ten_thousand_steps():.2f} | ≤ 2 |",
            f"| 1,000,000 | {ending.after_a_million_steps():.2f} | ≤ 10 |",
        ],
    )


def gains_table(write: bool = False) -> str:
    """What rules promise, beside what their cure gives."""
    found = []
    for gain in gains.run():
        found.append(gain)
        print(f"{gain.rule}: {gain.promised_low} to {gain.promised_high}, measured {gain.measured}", file=sys.stderr)
    if write:
        gains.write(found, machine())
    held = sum(gain.holds for gain in found)
    return _table(
        "gains",
        "What rules promise, and what their cure gives",
        f"Each planted training of tests/scenarios and its cured twin, in alternation; times as fast. "
        f"{held} of {len(found)} lie in the promised range.",
        ("rule", "training", "a step", "cured", "promised", "measured", "in the range"),
        [
            f"| {gain.rule} | {gain.scenario} | {gain.planted_ms:.2f} ms | {gain.cured_ms:.2f} ms | "
            f"{gain.promised_low:.2f} to {gain.promised_high:.2f} | {gain.measured:.2f} | "
            f"{'yes' if gain.holds else '**no**'} |"
            for gain in found
        ],
    )


def traces_table() -> str:
    """Reading recorded traces."""
    rows = []
    for speed in traces.run():
        hta = "not measured"
        if speed.hta_s is not None and speed.hta_cpu_s is not None:
            times = speed.hta_s / (speed.read_s + speed.facts_s), speed.hta_cpu_s / speed.cpu_s
            hta = f"{speed.hta_s:.1f} s ({speed.hta_cpu_s:.1f} s): {times[0]:.1f}× ours ({times[1]:.1f}×)"
        ours = f"{speed.read_s:.2f} + {speed.facts_s:.2f} s ({speed.cpu_s:.2f} s)"
        rows.append(
            f"| {speed.name}, {speed.size_mb:,.0f} MB | {ours} | "
            f"{speed.mb_per_s:,.0f} MB/s ({speed.size_mb / speed.cpu_s:,.0f}) | {speed.rss_mb:,.0f} MB "
            f"({speed.rss_mb / speed.size_mb:.2f}×) | {hta} |"
        )
    return _table(
        "traces",
        "Reading recorded traces",
        "Recorded traces, and real events repeated to a size; each file is read and reduced to facts in a process of "
        "its own. In brackets: by its processor time, which other work on the machine disturbs less. "
        "Must: 100 MB/s from file to facts, resident memory of at most 0.3× the file at 1 GB; 10 times as fast as "
        "HolisticTraceAnalysis (three of its breakdowns; `PROF_HTA` names a Python that has it) there, and 4 times on "
        "small files.",
        ("file, unpacked", "reading + facts", "speed", "resident memory", "HolisticTraceAnalysis"),
        rows,
    )


PARTS: dict[str, Callable[[], str]] = {
    "overhead": overhead_table,
    "ranks": ranks_table,
    "many_ranks": many_ranks_table,
    "accuracy": accuracy_table,
    "startup": startup_table,
    "ending": ending_table,
    "traces": traces_table,
    "gains": gains_table,
}


def _table(name: str, title: str, text: str, columns: tuple[str, ...], rows: list[str]) -> str:
    head = f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"
    return f"## {title}\n\n`python -m benchmarks {name}`. {text}\n\n{head}\n" + "\n".join(rows) + "\n"


def machine() -> str:
    """This machine, in words."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}), Python {platform.python_version()}, "
        f"torch {torch.__version__.split('+')[0]}"
    )


def main(words: list[str]) -> None:
    """Run what was asked for."""
    names = [word for word in words if not word.startswith("-")] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(PARTS)}")
    parts = []
    for name in names:
        parts.append(gains_table(write="--write" in words) if name == "gains" else PARTS[name]())
        print(parts[-1], flush=True)
    if "--write" in words and names == list(PARTS):
        PAGE.write_text("\n".join([HEAD.format(machine=machine()), *parts]), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
