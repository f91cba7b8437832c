"""What each rank is reduced to, as it lies in its folder.

    rank.json    `RankFacts`, which merging reads, and nothing else of most ranks
    facts.json   `Facts`, of which merging reads those of the typical rank

Both are made anew where the raw record has grown since, or where another version wrote them.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from profiler.analysis.facts import Facts
from profiler.analysis.rank_facts import FORMAT, RankFacts
from profiler.analysis.stored import from_json, to_json
from profiler.errors import ProfError
from profiler.record import layout


def read_rank(process_dir: Path) -> RankFacts | None:
    """The rank's facts, if they are there, current and of this version."""
    path = process_dir / layout.RANK_JSON
    try:
        if _older_than_record(path, process_dir):
            return None
        found = from_json(RankFacts, path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if found.format == FORMAT else None


def has_record(process_dir: Path) -> bool:
    """Whether the raw record is there to make facts of."""
    return bool(layout.tapes(process_dir)) or (process_dir / layout.FOLDED).exists()


def why_unreadable(process_dir: Path) -> str:
    """Why facts that lie here can't be read, nor made anew; "" where there are none."""
    path = process_dir / layout.RANK_JSON
    if not path.exists() or has_record(process_dir):
        return ""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return f"{layout.RANK_JSON} is damaged"
    if isinstance(found, dict) and found.get("format") == FORMAT:
        return f"{layout.RANK_JSON} is damaged"
    return "another version of prof reduced them"


def read_whole(process_dir: Path) -> Facts:
    """All facts of a rank. Raises ProfError when they can't be read."""
    path = process_dir / layout.FACTS_JSON
    try:
        return from_json(Facts, path.read_bytes())
    except (OSError, ValueError) as error:
        raise ProfError(
            f"{path} can't be read ({error}): bring the folder of that host again, and merge with the same version."
        ) from error


def write(process_dir: Path, rank: RankFacts, whole: Facts) -> None:
    """Keep both; a folder that can't be written to is read from its record again next time."""
    with contextlib.suppress(OSError):
        for name, value in ((layout.FACTS_JSON, whole), (layout.RANK_JSON, rank)):
            path = process_dir / name
            partial = path.with_suffix(".part")
            partial.write_bytes(to_json(value))
            partial.replace(path)


def _older_than_record(path: Path, process_dir: Path) -> bool:
    made = path.stat().st_mtime_ns
    recorded = [segment for segments in layout.tapes(process_dir).values() for segment in segments]
    recorded += [process_dir / layout.NOTES, process_dir / layout.FOLDED]
    return any(each.stat().st_mtime_ns > made for each in recorded if each.exists())
