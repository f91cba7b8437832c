"""One folder for a job of which each part runs under a `prof attach` of its own, as `srun` starts them.

    <run>/job/<part>/run.json     what ran in that part, but for part 0, whose run.json is the run's

A part claims its place by making `job/<part>`; a folder in which it is taken belongs to an earlier run.
Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProfError
from .layout import PROCESSES, RUN_JSON
from .run_folder import safe_stem

JOB = "job"
_PARTS = (  # number, count, name of the job
    ("RANK", "WORLD_SIZE", ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "MASTER_PORT")),
    ("SLURM_PROCID", "SLURM_NTASKS", ("SLURM_JOB_ID",)),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE")),
    ("PMI_RANK", "PMI_SIZE", ("PMI_JOBID",)),
)
_MOST_TRIES = 1000


@dataclass(frozen=True)
class Part:
    """One part of a job: a rank, or a node."""

    number: int
    count: int
    job: str


def part_of_job(environ: Mapping[str, str]) -> Part | None:
    """Which part of a job this process is to start; None where it starts all of it."""
    for number, count, names in _PARTS:
        if environ.get(number, "").isdigit() and environ.get(count, "").isdigit() and int(environ[count]) > 1:
            job = next((environ[name] for name in names if environ.get(name)), "job")
            step = environ.get("SLURM_STEP_ID", "") if number.startswith("SLURM") else ""
            return Part(int(environ[number]), int(environ[count]), "-".join(filter(None, (job, step))))
    return None


def join_run(base: Path, name: str | None, stem: str, part: Part) -> Path:
    """The job's folder, made by whichever part comes first. Raises ProfError when it can't be joined."""
    if name is not None and (not name.strip() or name in (".", "..") or "/" in name or os.sep in name):
        raise ProfError(f"{name!r} cannot be the name of a run: give one folder name, and its place with --output.")
    first = name or f"{safe_stem(stem)}-{re.sub('[^A-Za-z0-9._-]+', '-', part.job)}"
    for number in range(1, _MOST_TRIES):
        run = base / (first if number == 1 else f"{first}-{number}")
        try:
            if _joined(run, part):
                return run
        except OSError as error:
            raise ProfError(
                f"cannot write to {run} ({error.strerror or error}): choose a writable folder with --output."
            ) from error
        if name is not None:
            raise ProfError(
                f"{run} holds another run already: give another --name to all ranks, or remove that folder first."
            )
    raise ProfError(f"{base} is full of runs named {first}: give all ranks a --name.")


def _joined(run: Path, part: Part) -> bool:
    """Make or enter the folder, and claim the part's place in it; False where it belongs to another run."""
    known = run.is_dir() and any(run.iterdir())
    if known and not (run / JOB).is_dir():
        return False
    if part.number != 0 and (run / RUN_JSON).exists() and b'"ended_unix_s"' in (run / RUN_JSON).read_bytes():
        return False
    (run / JOB).mkdir(parents=True, exist_ok=True)
    (run / PROCESSES).mkdir(exist_ok=True)
    try:
        about(run, part).mkdir()
    except FileExistsError:
        return False
    return True


def about(run: Path, part: Part) -> Path:
    """Where a part says what ran in it."""
    return run / JOB / f"{part.number:05d}"


def still_running(run: Path, count: int) -> int:
    """How many parts have not said yet how they ended, or have not come at all."""
    ended = [path for path in (run / JOB).glob(f"*/{RUN_JSON}") if b'"ended_unix_s"' in path.read_bytes()]
    return count - len(ended)
