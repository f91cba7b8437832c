"""Run the user's command with recording switched on in every Python under it, and get out of its way.

In:  the command as the user typed it, a run folder.
Out: `Outcome`: how the command ended. Its stdin, output, signals and exit code are its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ProfError
from ..record.run_folder import write_run_json
from . import limits
from .enter import OPTIONS, RUN

INJECT = Path(__file__).parent / "inject"
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT")
_SI_KERNEL = 0x80  # a key pressed at the terminal: the whole foreground group has it already


@dataclass(frozen=True)
class Outcome:
    """How the user's command ended."""

    exit_code: int  # as its parent sees it; -n: killed by signal n
    duration_s: float

    @property
    def signal_name(self) -> str | None:
        """The signal that ended it."""
        return signal.Signals(-self.exit_code).name if self.exit_code < 0 else None


def command_of(words: Sequence[str], module: str | None = None) -> list[str]:
    """The command to run: a Python script or module gets this interpreter, all else runs as typed.

    Raises ProfError when there is nothing to run.
    """
    if module is not None:
        return [sys.executable, "-m", module, *words]
    if not words:
        raise ProfError("nothing to run: give a script, `-m module`, or `-- command …`.")
    first, rest = words[0], list(words[1:])
    path = Path(first)
    if path.suffix in (".py", ".pyw", ".pyc") or (path.is_dir() and (path / "__main__.py").is_file()):
        if not path.exists():
            raise ProfError(f"there is no script {first}: check the path.")
        return [sys.executable, first, *rest]
    found = shutil.which(first) or shutil.which(first, path=str(Path(sys.executable).parent))
    if found:
        return [found if os.sep not in first and not shutil.which(first) else first, *rest]
    if path.is_file():
        return [sys.executable, first, *rest]
    raise ProfError(f"there is no script and no command {first!r}: check the path.")


def script_name(words: Sequence[str], module: str | None = None) -> str:
    """What to call the run after."""
    if module is not None:
        return module
    scripts = [word for word in words if word.endswith(".py")]
    return Path(scripts[0] if scripts else words[0]).stem


def environment(run: Path, options: dict[str, Any]) -> dict[str, str]:
    """The environment for the user's command: its own, with our folder at the head of PYTHONPATH."""
    env = dict(os.environ)
    rest = [entry for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != str(INJECT)]
    env["PYTHONPATH"] = os.pathsep.join([str(INJECT), *rest])
    env[RUN] = str(run.resolve())
    env[OPTIONS] = json.dumps(options)
    return env


def launch(
    command: Sequence[str],
    run: Path,
    options: dict[str, Any],
    while_running: Callable[[], None] | None = None,
    about: Path | None = None,
) -> Outcome:
    """Run `command` to its end. `while_running` is called about once a second meanwhile.

    What ran is said in `about`, or in the run's folder.

    Raises ProfError when the command cannot be started.
    """
    about = about or run
    write_run_json(about, **_who(command), started_unix_s=time.time())
    began = time.monotonic()
    with _own_signals():
        try:
            child = subprocess.Popen(command, env=environment(run, options))
        except OSError as error:
            raise ProfError(f"cannot run {command[0]}: {error.strerror or error}.") from error
        _wait(child, while_running or (lambda: None))
    outcome = Outcome(child.returncode, time.monotonic() - began)
    with contextlib.suppress(OSError):
        write_run_json(
            about,
            ended_unix_s=time.time(),
            duration_s=outcome.duration_s,
            exit_code=outcome.exit_code,
            signal=outcome.signal_name,
        )
    return outcome


def _who(command: Sequence[str]) -> dict[str, Any]:
    """What runs, and on what."""
    from .. import __version__

    return {
        "command": list(command),
        "cwd": str(Path.cwd()),
        "script": next((word for word in command if word.endswith(".py")), None),
        "cores": limits.cores(),
        "memory_bytes": limits.memory_bytes(),
        "prof_version": __version__,
    }


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """While the user's command runs, signals are for it. Handlers, not SIG_IGN: a child would inherit that."""
    before: dict[int, Any] = {}
    for name in _PASSED_ON:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _wait(child: subprocess.Popen[bytes], while_running: Callable[[], None]) -> None:
    """Until the child ends: pass on what is sent to us alone, and do our own work about once a second."""
    if not hasattr(signal, "sigtimedwait"):
        _wait_without_signals(child, while_running)
        return
    watched = {getattr(signal, name) for name in _PASSED_ON} | {signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        while child.poll() is None:
            got = signal.sigtimedwait(watched, 1.0)
            if got is None:
                while_running()
            elif got.si_signo != signal.SIGCHLD and got.si_code != _SI_KERNEL:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(got.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _wait_without_signals(child: subprocess.Popen[bytes], while_running: Callable[[], None]) -> None:
    for name in ("SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), lambda number, _: child.send_signal(number))
    while True:
        try:
            child.wait(1.0)
            return
        except subprocess.TimeoutExpired:
            while_running()


def options_of(config: Any) -> dict[str, Any]:
    """The part of the settings that the recording processes read."""
    known = asdict(config)
    return {name: known[name] for name in ("deep", "sample_interval_ms", "max_disk_mb", "memory_history")}


def leave_as(outcome: Outcome) -> None:
    """End this process the way the user's command ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    if outcome.exit_code < 0:
        number = -outcome.exit_code
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler to reset
            signal.signal(number, signal.SIG_DFL)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        _no_core_dump()
        os.kill(os.getpid(), number)
    sys.exit(outcome.exit_code if outcome.exit_code >= 0 else 128 - outcome.exit_code)


def _no_core_dump() -> None:
    """The user's command has dumped its core, if it was to; ours would be in its place."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
