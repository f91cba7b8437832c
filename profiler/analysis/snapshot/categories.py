"""What an allocation was for: by who asked, and by how long it was kept.

In:  lifetimes, the origin of each stack, and the part of the step in which each event lay.
Out: a category for each lifetime.

A part of the step's own scratch is gone before the part ends; what forward leaves for backward, or backward for the
optimizer, is not. That is how activations and gradients are told from workspace.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from profiler.analysis.snapshot import origin as kinds
from profiler.analysis.snapshot.origin import NOTHING, Origin
from profiler.analysis.snapshot.replay import BEFORE, Lifetime
from profiler.record.snapshot import NO_STACK, Annotation, Event

PARTS = ("startup", "forward", "backward", "optimizer")  # that follow one another
RETAINED_STEPS = 3  # earlier steps that each left something, made at one line

_SAID = {  # by torch.profiler's memory view, whose snapshots carry categories
    "parameter": "parameters",
    "gradient": "gradients",
    "optimizer_state": "optimizer",
    "activation": "activations",
    "input": "other",
    "temporary": "workspace",
    "autograd_detail": "workspace",
}
_AT_ONCE = {
    kinds.CONSTRUCT: "parameters",
    kinds.LOAD: "loaded",
    kinds.COLLECTIVE: "communication",
    kinds.GATHER: "parameters",
    kinds.REDUCE: "gradients",
    kinds.ACCUMULATE: "gradients",
    kinds.CLIP: "workspace",
    kinds.COPY: "other",
    kinds.LOOP: "other",
}
_IF_KEPT = {
    kinds.OPTIMIZER: "optimizer",
    kinds.BACKWARD: "gradients",
    kinds.FORWARD: "activations",
    kinds.RECOMPUTE: "activations",
}
_MADE_BY_STEPS = (kinds.FORWARD, kinds.RECOMPUTE, kinds.COPY, kinds.LOOP)


@dataclass(frozen=True, slots=True)
class Phases:
    """The part of the step at each event."""

    stage: tuple[str, ...]  # of the last event that tells
    episode: tuple[int, ...]  # how often it changed so far
    step: tuple[int, ...]  # forward passes that began after a backward or an optimizer's step
    last_alloc: tuple[int, ...]  # by episode: the index of its last allocation
    told: tuple[str, ...]  # the stage that each event's own stack tells; "" where it does not


def phases(
    events: Sequence[Event],
    origins: Sequence[Origin],
    annotations: Sequence[Annotation] = (),
    *,
    frees_tell: bool = True,
) -> Phases:
    """Part the events by the stage that their stacks tell, or else the annotation around them."""
    told = [
        "" if event.action.startswith("free") and not frees_tell else origin_of(event.stack, origins).stage
        for event in events
    ]
    said = _annotated(events, annotations)
    stages, episodes, steps = [], [], []
    last_alloc = [BEFORE]
    stage, step = "", 0
    for index, event in enumerate(events):
        now = told[index] or said[index]
        if now in PARTS and now != stage:
            step += now == "forward" and stage in ("backward", "optimizer")
            stage = now
            last_alloc.append(index)
        if event.action == "alloc":
            last_alloc[-1] = index
        stages.append(stage)
        episodes.append(len(last_alloc) - 1)
        steps.append(step)
    return Phases(tuple(stages), tuple(episodes), tuple(steps), tuple(last_alloc), tuple(told))


def origin_of(stack: int, origins: Sequence[Origin]) -> Origin:
    """The origin of a stack's number."""
    return NOTHING if stack == NO_STACK else origins[stack]


def categories(lifetimes: Sequence[Lifetime], origins: Sequence[Origin], found: Phases, moment: int) -> list[str]:
    """The category of each lifetime; what steps left behind is judged at that moment."""
    retained = _retained(lifetimes, origins, found, moment)
    return [
        "retained" if index in retained else _category(it, origin_of(it.stack, origins), found)
        for index, it in enumerate(lifetimes)
    ]


def _category(it: Lifetime, source: Origin, found: Phases) -> str:
    if it.category:
        return _SAID.get(it.category, "unknown")
    if it.compiling:
        return "workspace"
    kind = source.kind
    if kind in (kinds.MISSING, kinds.BARE):
        return "before_recording" if it.began == BEFORE else "unknown"
    if kind in _AT_ONCE:
        return _AT_ONCE[kind]
    return _IF_KEPT[kind] if _outlived(it, kind, found) else "workspace"


def _outlived(it: Lifetime, kind: str, found: Phases) -> bool:
    """Whether it was kept beyond the part of the step that made it."""
    if it.began == BEFORE or it.ended is None:
        return True
    episode = found.episode[it.began]
    if kind == kinds.BACKWARD and found.told[it.ended]:
        return found.told[it.ended] != "backward"
    if kind == kinds.BACKWARD:  # a gradient may go before anything of the next part is seen, a scratch goes at once
        return it.ended > found.last_alloc[episode]
    return found.episode[it.ended] != episode


def _retained(lifetimes: Sequence[Lifetime], origins: Sequence[Origin], found: Phases, moment: int) -> set[int]:
    """What a step left behind and later ones did again: lists of losses with their graph, caches that grow."""
    by_place: dict[object, list[int]] = defaultdict(list)
    for index, it in enumerate(lifetimes):
        if it.began == BEFORE or it.began > moment or (it.ended is not None and it.ended <= moment):
            continue
        source = origin_of(it.stack, origins)
        if source.kind in _MADE_BY_STEPS and found.step[it.began] < found.step[moment]:
            by_place[(source.site, source.function)].append(index)
    kept: set[int] = set()
    for indices in by_place.values():
        if len({found.step[lifetimes[index].began] for index in indices}) >= RETAINED_STEPS:
            kept.update(indices)
    return kept


def _annotated(events: Sequence[Event], annotations: Sequence[Annotation]) -> list[str]:
    """The stage that `record_function` ranges name at each event; "" where none does."""
    changes = [(each.time_us, each.begins, _stage_of(each.name)) for each in annotations]
    changes = sorted((change for change in changes if change[2]), key=lambda change: (change[0], change[1]))
    said, open_ranges, at = [], [], 0
    for event in events:
        while event.time_us is not None and at < len(changes) and changes[at][0] <= event.time_us:
            _, begins, stage = changes[at]
            if begins:
                open_ranges.append(stage)
            elif stage in open_ranges:
                open_ranges.reverse()
                open_ranges.remove(stage)
                open_ranges.reverse()
            at += 1
        said.append(open_ranges[-1] if open_ranges else "")
    return said


def _stage_of(name: str) -> str:
    words = name.lower().strip("# ")
    if words.startswith("optimizer."):
        return "optimizer"
    return words if words in ("forward", "backward", "optimizer") else ""
