"""A snapshot as a run: so that rules, which read `Facts`, judge it like any other.

In:  `SnapshotFacts`.
Out: `Facts` in which only the snapshot is known.
"""

from __future__ import annotations

from profiler.analysis.facts import Facts, Machine, MemoryFacts, Overhead, RunFacts, Settings
from profiler.analysis.snapshot_facts import SnapshotFacts


def facts_of(snapshot: SnapshotFacts, root: str = "") -> Facts:
    """Facts of which a snapshot is all that was recorded; files are shown as seen from `root`."""
    return Facts(
        run=RunFacts(snapshot.source, (), None, None, None, 1, 0.0, None, None, True, 0.0),
        machine=Machine(0, 0, "an accelerator", True, False, None, None, None),
        steps=None,
        stages={},
        workers=None,
        memory=MemoryFacts(None, None, None, None, None, {}, {}, (), None, None, ()),
        spans=(),
        gc_ms_per_step=None,
        gc_pauses=0,
        settings=Settings((), (), (), {}, {}),
        overhead=Overhead(None, None, 0.0, None, 0.0),
        timeline=None,
        histogram=None,
        operators=(),
        not_measured={},
        notices=snapshot.notices,
        root=root,
        snapshot=snapshot,
    )
