"""Record a part of a script or notebook: `with profiler.profile() as run:`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..config import load_config
from ..errors import ProfError
from ..record.run_folder import create_run, write_run_json
from ..record.vocabulary import STAGES, Kind, Name, code
from .current import current_session

if TYPE_CHECKING:
    from .session import Session

_STAGE_NAMES = {word: name for name, word in STAGES.items()}


class profile:  # noqa: N801 -- used like a function
    """Record the training steps of a `with` block into a run folder, and report when it ends.

    Under `prof attach` the whole process is recorded already, and the block does nothing of its own.

    Args:
        name: of the run's folder, with a number where it is taken; made of the script's name and the time when left
            out.
        output: folder in which run folders are made (`reports`).
        deep: look deep for a few steps (operators, activation memory).
        report: write summary.json and report.html at the end, in a process of its own.
        quiet: print nothing at the end.

    Raises:
        ProfError: on entering, inside another `profile` block.

    Where nothing can be written the block runs all the same, nothing is recorded, and one line on stderr says why.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        output: str | None = None,
        deep: bool | None = None,
        report: bool | None = None,
        quiet: bool | None = None,
    ) -> None:
        self._name = name
        self._flags = {"output": output, "deep": deep, "report": report, "quiet": quiet}
        self._session: Session | None = None
        self._environment: dict[str, str | None] = {}
        self.path: Path | None = None  # the run folder

    def __enter__(self) -> profile:
        if os.environ.get("PROF_DISABLE", "") not in ("", "0"):
            return self
        active = current_session()
        if active is not None:
            if getattr(active, "opened_by_context", False):
                raise ProfError("a `profiler.profile` block is open already: blocks can't be nested.")
            self.path = active.config.run_directory
            return self
        from .install import begin
        from .launcher import _who, options_of
        from .session import CaptureConfig

        self._began = time.time()
        try:
            self._config = load_config(Path.cwd(), self._flags)
            stem = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else "notebook"
            self.path = create_run(Path(self._config.output), self._name, stem, numbered=True).resolve()
            write_run_json(self.path, **_who([sys.executable, *sys.argv]), started_unix_s=self._began)
        except (ProfError, OSError) as error:
            sys.stderr.write(f"prof: nothing is recorded: {error}\n")
            self.path = None
            return self
        options = options_of(self._config)
        self._share_with_children(options)
        self._session = begin(CaptureConfig.from_options(self.path, options))
        self._session.opened_by_context = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is None:
            return
        from .install import end

        end(self._session)
        self._session = None
        self._restore_environment()
        assert self.path is not None
        try:
            write_run_json(self.path, ended_unix_s=time.time(), duration_s=time.time() - self._began)
        except OSError:
            pass
        if self._config.report:
            self._report()

    def _share_with_children(self, options: dict[str, Any]) -> None:
        """Spawned workers start a fresh Python: they find us by the environment, while the block lasts."""
        from .launcher import environment

        assert self.path is not None
        for name, value in environment(self.path, options).items():
            if os.environ.get(name) != value:
                self._environment[name] = os.environ.get(name)
                os.environ[name] = value

    def _restore_environment(self) -> None:
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._environment.clear()

    def _report(self) -> None:
        """In a process of its own: the analysis is not to live in the training's."""
        flags = ["--quiet"] if self._config.quiet else []
        try:
            subprocess.run(
                [sys.executable, "-m", "profiler.cli.main", "report", str(self.path), *flags],
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": _import_path()},
            )
        except OSError as error:
            sys.stderr.write(f"prof: the report could not be started ({error}); the record is in {self.path}.\n")

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json says. Raises ProfError while there is none."""
        import json

        if self.path is None or not (self.path / "summary.json").is_file():
            raise ProfError("this run has no summary: it exists after the block, when `report` is on.")
        result: dict[str, Any] = json.loads((self.path / "summary.json").read_text("utf-8"))
        return result


def _import_path() -> str:
    """PYTHONPATH with which a child imports the package that we are."""
    ours = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH")
    return os.pathsep.join([ours, rest]) if rest else ours


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a part of the step that no hook can see, e.g. `with profiler.stage("data_wait"):`.

    A stage's own name (data_wait, host_to_device, forward, backward, optimizer, communication) adds to that
    stage; any other name is shown under `other`. Does nothing while nothing records.
    """
    session = current_session()
    if session is None:
        yield
        return
    push, pop = session.stage_codes(name, _STAGE_NAMES.get(name))
    session.write_safely(push, "profiler.stage")
    try:
        yield
    finally:
        session.write_safely(pop, "profiler.stage")


def step() -> None:
    """Say that a step ends here; steps are then cut at these marks. Does nothing while nothing records."""
    session = current_session()
    if session is not None:
        session.write_safely(_STEP, "profiler.step")
        if session.steps == session.steps_at_mark:  # no optimizer has stepped since the last mark
            session.stepped()
        session.steps_at_mark = session.steps


_STEP = code(Kind.MARK, Name.STEP)
