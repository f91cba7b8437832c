"""What the report says of the ranks of a job.

In:  `Facts`.
Out: `RanksSection`: sentences, figures and tables, as the template and the terminal show them; None for one rank.

Up to `MOST_ROWS` ranks are shown one by one; beyond, the ranks that stand out are, and of the rest the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import CollectiveRow, LateRank, LinkModel, RankRow, RanksFacts, SlowLink
from profiler.report import palette, wording
from profiler.report.wording import ms, share

MOST_ROWS = 64
MOST_OUTLIERS = 32
MOST_COLLECTIVES = 16
MOST_ALSO = 8
_STEP, _WAITS = "", "waits for others"  # columns beside those of the stages
_FULL_SHADE = 0.15  # of the step: a cell so far from the column's median has the full colour
_STANDS_OUT = 4.0  # robust deviations from the median
_STANDS_OUT_SHARE = 0.03  # and of the step
_REST_SHARE = 0.1  # of exposed communication, neither transfer nor waiting, that has to be said


@dataclass(frozen=True, slots=True)
class Cell:
    """A number in the heat map."""

    text: str
    shade: float  # -1 (far below the median of its column) to 1 (far above)


@dataclass(frozen=True, slots=True)
class HeatRow:
    """A rank, or a quantile of all ranks."""

    name: str
    note: str  # "typical", "late", what is wrong with it
    host: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class PairRow:
    """One stage on the typical rank and on the slowest."""

    name: str
    colour: str
    hatch: int
    typical_ms: float
    slowest_ms: float
    typical_width: float  # percent of the longest
    slowest_width: float

    @property
    def more_ms(self) -> float:
        """By how much the slowest is longer."""
        return self.slowest_ms - self.typical_ms


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a rank stood when the record ended."""

    rank: str
    doing: str
    place: str


@dataclass(frozen=True, slots=True)
class RanksSection:
    """The ranks, ready to be shown."""

    sentences: tuple[str, ...]
    alarm: str  # what stopped the job, if a collective did
    stands: tuple[Stand, ...]
    figures: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    quantiles: tuple[HeatRow, ...]
    left_out: int  # ranks that are in the quantiles only
    hosts: bool  # more than one
    pair: tuple[PairRow, ...]
    pair_names: tuple[str, str]
    collectives: tuple[CollectiveRow, ...]
    links: tuple[str, ...]  # what a transfer takes, a sentence for each kind; or why that is not said


def ranks_section(facts: Facts) -> RanksSection | None:
    """What there is to say of the ranks."""
    ranks = facts.ranks
    if ranks is None:
        return None
    names = palette.in_order({name for row in ranks.rows for name in row.stages_ms})
    names = [name for name in names if any(row.stages_ms.get(name) for row in ranks.rows)]
    waits = any(row.waiting_ms is not None for row in ranks.rows)
    columns = [_STEP, *names, *([_WAITS] if waits else [])]
    shown = _shown(ranks, columns)
    other = ranks.late.rank if ranks.late else ranks.slowest
    return RanksSection(
        sentences=sentences(ranks),
        alarm=" ".join(filter(None, (alarm(ranks), mismatched(ranks, facts.root)))),
        stands=_stands(ranks, facts.root),
        figures=_figures(ranks),
        columns=tuple("step" if name == _STEP else wording.label(name) for name in columns),
        rows=_heat(ranks, columns, shown),
        quantiles=_quantiles(ranks, columns) if len(shown) < len(ranks.rows) else (),
        left_out=len(ranks.rows) - len(shown),
        hosts=ranks.hosts > 1,
        pair=_pair(ranks, names, other) if other is not None else (),
        pair_names=(f"rank {ranks.typical}, typical", f"rank {other}, {'late' if ranks.late else 'most work'}"),
        collectives=tuple(row for row in ranks.collectives if row.calls >= 0.1)[:MOST_COLLECTIVES],
        links=_links(ranks),
    )


def sentences(ranks: RanksFacts) -> tuple[str, ...]:
    """The job in words: what is exposed, what of it is waiting, and who is late for what."""
    hosts = f" on {wording.plural(ranks.hosts, 'host')}" if ranks.hosts > 1 else ""
    said = [f"{wording.plural(len(ranks.recorded), 'rank')}{hosts} of {ranks.world_size} left a record."]
    if len(ranks.recorded) == ranks.world_size:
        said = [f"{wording.plural(ranks.world_size, 'rank')}{hosts}."]
    if ranks.exposed_ms is not None and ranks.step_ms:
        text = (
            f"On average over ranks, communication that nothing hides takes {ms(ranks.exposed_ms)} of each "
            f"{ms(ranks.step_ms)} step "
            f"({share(ranks.exposed_ms / ranks.step_ms)})"
        )
        if ranks.network_ms is not None and ranks.waiting_ms is not None:
            text += f": {ms(ranks.network_ms)} transfer, {ms(ranks.waiting_ms)} waiting for ranks that come later"
            rest_ms = ranks.exposed_ms - ranks.network_ms - ranks.waiting_ms
            if rest_ms >= _REST_SHARE * ranks.exposed_ms:
                text += f", {ms(rest_ms)} in exchanges that not all ranks end together, of which the two can't be told"
        said.append(text + ".")
    if ranks.hidden_ms:
        said.append(f"{ms(ranks.hidden_ms)} more run behind the backward pass.")
    late = ranks.late
    if late is not None:
        cause = f", mostly by {_cause(late.causes[0].what)} ({ms(late.causes[0].ms)})" if late.causes else ""
        who = f"Rank {late.rank}" if late.host is None else f"Host {late.host} ({late.host_ranks} ranks)"
        said.append(
            f"{who} comes last in {share(late.share_of_steps)} of the steps, "
            f"{ms(late.late_ms)} after the others{cause}.{_also(late)}"
        )
    said += [
        f"Not said: {what}, since {why}."
        for what, why in ranks.withheld.items()
        if "turns" not in why and what not in ("link", "slow link")  # which are said beside the collectives
    ]
    return tuple(said)


def _also(late: LateRank) -> str:
    """Who comes late beside it; "" for nobody."""
    if not late.also:
        return ""
    named = [
        f"rank {each.rank} ({ms(each.late_ms)}{f', {_cause(each.cause.what)}' if each.cause else ''})"
        for each in late.also[:MOST_ALSO]
    ]
    more = late.also_count - len(named)
    return f" Late too: {', '.join(named)}{f' and {more} others' if more > 0 else ''}."


def _cause(what: str) -> str:
    return {"gap": "work outside of its steps", "gc": "garbage collection", "other": "code of its own"}.get(
        what, wording.label(what)
    )


def alarm(ranks: RanksFacts) -> str:
    """What held the job when it ended; "" where nothing did."""
    hang = ranks.hang
    if hang is None:
        return ""
    came = _listed(hang.arrived)
    text = f"{came} {'was' if len(hang.arrived) == 1 else 'were'} in {hang.collective}"
    text += f" for {wording.seconds(hang.for_s)}" if hang.for_s >= 0.1 else ""
    if hang.absent:
        text += f", to which {_listed(hang.absent)} did not come"
    text += " when the record ended."
    if hang.recorder:
        text += f" It is number {hang.sequence} of the group {hang.group}"
        text += f" ({hang.sizes})" if hang.sizes else ""
        text += ", by torch's flight recorder"
        text += f"; {_listed(hang.unknown)} left no dump." if hang.unknown else "."
        if not hang.absent and not hang.unknown:
            text += " All of its ranks came: what stands still is the transfer itself, or a mismatch."
    return text


def mismatched(ranks: RanksFacts, root: str) -> str:
    """What ranks called that does not fit together; "" where all do."""
    found = ranks.mismatch
    if found is None:
        return ""
    said = []
    for text, which in found.calls.items():
        site = next((found.sites[str(rank)] for rank in which if str(rank) in found.sites), None)
        said.append(f"{_listed(which)} called {text}{f' at {wording.place(site, root)}' if site else ''}")
    return (
        f"Collective number {found.sequence} of the group {found.group} differs in its {found.what}: {'; '.join(said)}."
    )


def _links(ranks: RanksFacts) -> tuple[str, ...]:
    """What the links do: slow ones first, then latency and rate, or why these are not told."""
    why = ranks.withheld.get("link")
    return (
        *map(_slow, ranks.slow_links[:MOST_ALSO]),
        *map(_link, ranks.links),
        *((f"Latency and rate of the link are not told: {why}.",) if why else ()),
    )


def _slow(link: SlowLink) -> str:
    kind = "" if link.pair else f" in {wording.label(link.kind)}"
    others = wording.plural(link.others, "other pair" if link.pair else "other group")
    return (
        f"Slow: {_listed(link.ranks)} exchange {wording.byte_size(link.bytes)}{kind} in {ms(link.ms)}, {others} in "
        f"{ms(link.typical_ms)}."
    )


def _link(link: LinkModel) -> str:
    return (
        f"By its own calls of {link.sizes} sizes, {wording.label(link.kind)} over {link.backend} between {link.ranks} "
        f"ranks takes {ms(link.latency_ms)} (± {ms(link.latency_error_ms)}) a call, and what each rank sends passes "
        f"at {link.gigabytes_per_s:.2g} GB/s (± {link.gigabytes_error:.2g})."
    )


def _listed(ranks: tuple[int, ...]) -> str:
    if len(ranks) > 8:
        return f"{len(ranks)} ranks ({', '.join(map(str, ranks[:4]))}, …)"
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def _stands(ranks: RanksFacts, root: str) -> tuple[Stand, ...]:
    hang = ranks.hang
    if hang is None:
        return ()
    numbers = sorted({*map(int, hang.doing), *hang.absent}, key=lambda rank: (rank in hang.arrived, rank))
    return tuple(
        Stand(
            str(number),
            wording.label(hang.doing.get(str(number), "left no trace of its end")),
            wording.place(hang.sites[str(number)], root) if str(number) in hang.sites else "",
        )
        for number in numbers[:MOST_ROWS]
    )


def _figures(ranks: RanksFacts) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str | None]] = [
        ("exposed communication", _ms(ranks.exposed_ms)),
        ("of it transfer", _ms(ranks.network_ms)),
        ("of it waiting", _ms(ranks.waiting_ms)),
        ("hidden behind backward", _ms(ranks.hidden_ms)),
        *(
            (f"exposed in {wording.label(name)}", _ms(value))
            for name, value in ranks.phases_ms.items()
            if value >= 0.01
        ),
        ("steps compared", wording.count(ranks.compared_steps) if ranks.compared_steps else None),
        ("backend", ranks.backend or None),
    ]
    reduction = ranks.reduction
    if reduction is not None:
        found += [
            ("gradients a step", wording.byte_size(reduction.parameter_bytes)),
            ("buckets", wording.count(len(reduction.bucket_bytes))),
            ("communication hook", reduction.comm_hook or "none"),
        ]
    clocks = ranks.clocks
    if ranks.hosts > 1 and clocks.aligned:
        found.append(("clocks brought together within", ms(clocks.error_ms)))
    return tuple((name, text) for name, text in found if text is not None)


def _ms(value: float | None) -> str | None:
    return None if value is None else ms(value)


def _value(row: RankRow, column: str) -> float | None:
    if row.step_ms is None or column == _STEP:
        return row.step_ms
    return row.waiting_ms if column == _WAITS else row.stages_ms.get(column, 0.0)


def _told(ranks: RanksFacts, column: str) -> list[float]:
    """A column of the heat map, of all ranks that have it."""
    return [value for value in (_value(row, column) for row in ranks.rows) if value is not None]


def _middles(ranks: RanksFacts, columns: list[str]) -> list[float]:
    return [median(_told(ranks, column) or [0.0]) for column in columns]


def _shown(ranks: RanksFacts, columns: list[str]) -> list[int]:
    """Places of the rows to show: all, or those that stand out."""
    if len(ranks.rows) <= MOST_ROWS:
        return list(range(len(ranks.rows)))
    middles = _middles(ranks, columns)
    step = middles[0] or 1.0
    spreads = [
        1.4826 * median([abs(value - middle) for value in _told(ranks, column)] or [0.0])
        for column, middle in zip(columns, middles, strict=True)
    ]
    named = {ranks.typical, ranks.slowest, *_late_ranks(ranks)}
    scores = {}
    for place, row in enumerate(ranks.rows):
        away = [
            abs(value - middle) if value is not None else 0.0
            for value, middle in zip((_value(row, column) for column in columns), middles, strict=True)
        ]
        odd = [
            part / step
            for part, spread in zip(away, spreads, strict=True)
            if part > max(_STANDS_OUT * spread, _STANDS_OUT_SHARE * step)
        ]
        scores[place] = max(odd, default=0.0) + 1e6 * (row.rank in named) + 1e3 * (row.state != "ok")
    found = sorted((place for place in scores if scores[place] > 0), key=lambda place: -scores[place])
    return sorted(found[:MOST_OUTLIERS])


def _late_ranks(ranks: RanksFacts) -> list[int]:
    late = ranks.late
    return [late.rank, *(each.rank for each in late.also)] if late is not None else []


def _heat(ranks: RanksFacts, columns: list[str], shown: list[int]) -> tuple[HeatRow, ...]:
    middles = _middles(ranks, columns)
    full = _FULL_SHADE * (middles[0] or 1.0)
    rows = []
    for row in (ranks.rows[place] for place in shown):
        cells = tuple(
            Cell("", 0.0) if value is None else Cell(ms(value), max(-1.0, min(1.0, (value - middle) / full)))
            for value, middle in zip((_value(row, column) for column in columns), middles, strict=True)
        )
        rows.append(HeatRow(f"rank {row.rank}", _note(ranks, row), row.host, cells))
    return tuple(rows)


def _note(ranks: RanksFacts, row: RankRow) -> str:
    if row.rank in _late_ranks(ranks):
        return "late"
    if row.state != "ok":
        return row.state
    if row.rank == ranks.slowest:
        return "most work"
    return "typical" if row.rank == ranks.typical else ""


def _quantiles(ranks: RanksFacts, columns: list[str]) -> tuple[HeatRow, ...]:
    ordered = [sorted(_told(ranks, column)) for column in columns]
    found = []
    for name, part in (("least", 0.0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95), ("most", 1.0)):
        cells = (
            Cell(ms(values[round(part * (len(values) - 1))]), 0.0) if values else Cell("", 0.0) for values in ordered
        )
        found.append(HeatRow(name, "of all ranks", "", tuple(cells)))
    return tuple(found)


def _pair(ranks: RanksFacts, names: list[str], other: int) -> tuple[PairRow, ...]:
    by_rank = {row.rank: row for row in ranks.rows}
    typical, slowest = by_rank[ranks.typical].stages_ms, by_rank[other].stages_ms
    longest = max([*typical.values(), *slowest.values()], default=0.0) or 1.0
    colours = palette.colours(names)
    return tuple(
        PairRow(
            name=wording.label(name),
            colour=colours[name],
            hatch=palette.hatch(name),
            typical_ms=typical.get(name, 0.0),
            slowest_ms=slowest.get(name, 0.0),
            typical_width=round(100 * typical.get(name, 0.0) / longest, 1),
            slowest_width=round(100 * slowest.get(name, 0.0) / longest, 1),
        )
        for name in names
    )
