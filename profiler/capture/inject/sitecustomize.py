"""Runs at the start of every Python under `prof attach`: the launcher puts this folder on PYTHONPATH.

It leaves the interpreter as it found it (sys.path, the user's own sitecustomize) and waits for torch to be
imported; a Python that never imports torch pays for this file and nothing more.
"""

import sys


def _enter() -> None:
    import os

    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 -- no pathlib at start-up
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    if os.environ.get("PROF_DISABLE", "") not in ("", "0") or "TRAINPROF_RUN" not in os.environ:
        return
    try:
        _load(os.path.dirname(os.path.dirname(folder)))  # noqa: PTH120
    except Exception as error:
        sys.stderr.write(f"prof: could not start ({type(error).__name__}: {error}); this process goes unrecorded.\n")


def _load(package: str) -> None:
    """Import our package under a private name: a script's own module called `profiler` stays its own."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "_trainprof", f"{package}/__init__.py", submodule_search_locations=[package]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_trainprof"] = module
    spec.loader.exec_module(module)
    importlib.import_module("_trainprof.capture.enter").enter()


def _chain() -> None:
    """Run the sitecustomize that we stand in front of, in our place."""
    import importlib

    ours = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as error:
        if ours is not None:
            sys.modules["sitecustomize"] = ours
        if error.name != "sitecustomize":
            raise


_enter()
_chain()
