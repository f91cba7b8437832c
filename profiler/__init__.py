"""Where every millisecond and gigabyte of a PyTorch training goes.

    prof attach train.py                 # nothing to edit

    with profiler.profile() as run:      # or around a loop
        train()
    print(run.summary["verdict"])

Names are imported when first used: this file runs at the start of every Python under `prof attach`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .capture.context import profile, stage, step
    from .errors import ProfError

__version__ = "0.1.0"
__all__ = ["ProfError", "__version__", "profile", "stage", "step"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in ("profile", "stage", "step"):
        return getattr(import_module(".capture.context", __name__), name)
    if name == "ProfError":
        return import_module(".errors", __name__).ProfError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
