"""From a snapshot's file to what is said of it: what `prof memory` and its users from Python share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from profiler.analysis.facts import Facts
from profiler.analysis.snapshot.build import snapshot_facts
from profiler.analysis.snapshot.run import facts_of
from profiler.analysis.snapshot_facts import SnapshotFacts
from profiler.config import read_table
from profiler.record.snapshot import read_snapshot
from profiler.rules.catalogue import catalogue, judge_by
from profiler.rules.config import RulesConfig
from profiler.rules.verdict import Judgement


@dataclass(frozen=True, slots=True)
class Explained:
    """A snapshot and what the rules of memory say of it."""

    snapshot: SnapshotFacts
    facts: Facts
    judgement: Judgement


def explain(path: Path, cwd: Path | None = None) -> Explained:
    """Read, explain and judge a snapshot by the rules of memory, as set in `cwd`.

    Raises ProfError when the file can't be read or is no snapshot.
    """
    found = snapshot_facts(read_snapshot(path), path.name)
    config = RulesConfig.from_table(read_table(cwd or Path.cwd()))
    rules = [rule for rule in catalogue(config) if rule.family() == "memory"]
    facts = facts_of(found, common_folder(found, str(cwd or Path.cwd())))
    return Explained(found, facts, judge_by(rules, facts))


def common_folder(found: SnapshotFacts, cwd: str) -> str:
    """The folder against which the user's files are shown: theirs, if it is here, else the one that all share."""
    files = {it.site.file for device in found.devices for it in device.holdings if it.site}
    folders = sorted({str(PurePosixPath(file).parent) for file in files if file.startswith("/")})
    if not folders or any(_lies_in(folder, cwd) for folder in folders):
        return cwd
    shared = os.path.commonpath(folders)
    return shared if shared != "/" else ""


def _lies_in(folder: str, cwd: str) -> bool:
    return os.path.commonpath([folder, cwd]) == cwd
