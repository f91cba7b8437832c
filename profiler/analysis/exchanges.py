"""Communication within steps: by kind, and by the phase of the step that it holds up.

In:  the `Stack` of a stretch and the step of each event.
Out: columns of the step table, nanoseconds:

    comm_ns_<kind>, comm_n_<kind>   blocked time and calls of each `Communication`
    comm_<phase>                    blocked in collectives that end for nobody before the last rank has come
    comm_<phase>_from, _to          when the first of those began and the last ended, since the step began (0: none)

The phases are forward, backward, optimizer and other. A collective that another one is made of is not counted.
"""

from __future__ import annotations

import numpy as np

from profiler.analysis import labels as lab
from profiler.analysis.asides import Columns
from profiler.analysis.stack import Bools, Ints, Labels, Stack
from profiler.record.vocabulary import STAGE_ORDER, TOGETHER, Name

PHASES = ("forward", "backward", "optimizer", "other")


def columns(built: Stack, label: Labels, inside: Bools, step: Ints, complete: int, starts_ns: Ints) -> Columns:
    """The columns of the complete steps; none where nothing was exchanged."""
    codes = built.codes
    at = np.flatnonzero(built.push & (codes.name == Name.COMMUNICATION) & inside & (built.partner >= 0) & (step >= 0))
    above = np.where(at > 0, built.top[at - 1], -1)
    outermost = (above < 0) | (codes.name[above] != Name.COMMUNICATION)
    at, above = at[outermost], above[outermost]
    if len(at) == 0:
        return {}
    time = built.time
    began, ended, owner = time[at], time[built.partner[at]], step[at]
    kind = codes.detail[at]
    found: Columns = {}
    for number in np.unique(kind).tolist():
        which = kind == number
        found[f"comm_ns_{number}"] = _per_step(owner[which], (ended - began)[which], complete)
        found[f"comm_n_{number}"] = _per_step(owner[which], np.ones(int(which.sum()), np.int64), complete)
    around = np.where(above >= 0, label[above], lab.OTHER)
    stage = lab.STAGE_OF[np.minimum(around, lab.LABELS - 1)]
    together = kind <= TOGETHER
    for phase in PHASES:
        which = together & (stage == STAGE_ORDER.index(phase))
        if not bool(which.any()):
            continue
        found[f"comm_{phase}"] = _per_step(owner[which], (ended - began)[which], complete)
        first = np.full(complete, np.iinfo(np.int64).max)
        last = np.zeros(complete, dtype=np.int64)
        np.minimum.at(first, owner[which], began[which])
        np.maximum.at(last, owner[which], ended[which])
        none = last == 0
        found[f"comm_{phase}_from"] = np.where(none, 0, first - starts_ns)
        found[f"comm_{phase}_to"] = np.where(none, 0, last - starts_ns)
    return found


def _per_step(owner: Ints, values: Ints, complete: int) -> Ints:
    return np.bincount(owner, weights=values, minlength=complete)[:complete].astype(np.int64)
