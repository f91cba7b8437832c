"""Make one run folder of several that hold ranks of one job.

In:  run folders, as hosts wrote them.
Out: a folder with what each rank was reduced to; its report is made like any other's.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from profiler.analysis.build import reduce_one, reduce_ranks
from profiler.analysis.engine import Spread
from profiler.analysis.ranks.kept import why_unreadable
from profiler.analysis.ranks.spread import unreduced
from profiler.errors import ProfError
from profiler.record import layout, reader
from profiler.record.run_folder import write_run_json


def merge_runs(folders: Sequence[Path], output: Path, spread: Spread | None = None) -> Path:
    """Gather the ranks of all folders, those not reduced yet by `spread`.

    Raises ProfError when two hold the same rank, or none holds any.
    """
    if output.exists() and any(output.iterdir()) and output not in folders:
        raise ProfError(f"{output} is not empty: give another folder with --output.")
    found: dict[int, Path] = {}
    if spread is not None:
        places = [(folder, each) for folder in folders for each in unreduced(layout.process_directories(folder))]
        spread(_reduce, [(folder.absolute(), each.absolute()) for folder, each in places])
    for folder in folders:
        ranks = reduce_ranks(folder)
        if not ranks:
            raise ProfError(f"{folder} holds no rank of a job: a run of one process is rendered by `prof report`.")
        for directory in layout.process_directories(folder):
            if directory not in ranks and why_unreadable(directory):
                _take(directory, output / directory.parent.name / directory.name)
        for directory, rank in ranks.items():
            known = found.get(rank.rank)
            if known is not None and known.parents[1] != directory.parents[1] and rank.steps:
                raise ProfError(
                    f"rank {rank.rank} is in {known.parents[1]} and in {folder}: these folders are not of one job."
                )
            found.setdefault(rank.rank, directory)
            _take(directory, output / directory.parent.name / directory.name)
    first = min(found)
    about = reader.read_json(found[first].parents[1] / layout.RUN_JSON) or {}
    write_run_json(output, **{**about, "name": output.name, "merged_from": [str(folder) for folder in folders]})
    return output


def _reduce(place: tuple[Path, Path]) -> None:
    """Reduce one rank into its folder; what fails is told by whoever reads it."""
    with contextlib.suppress(ProfError, OSError):
        reduce_one(*place, over=True)


def _take(directory: Path, target: Path) -> None:
    if directory == target:
        return
    try:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(directory / layout.RANK_JSON, target / layout.RANK_JSON)
        if (directory / layout.FACTS_JSON).exists():  # those of the typical rank are needed, or of another one
            shutil.copyfile(directory / layout.FACTS_JSON, target / layout.FACTS_JSON)
    except OSError as error:
        raise ProfError(f"{directory} could not be brought to {target}: {error.strerror or error}.") from error
