"""Whose line is it: the innermost frame that belongs to the user.

The user's code is what is neither installed (site-packages), nor the standard library, nor torch, nor ours.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from types import CodeType, FrameType
from typing import Any

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 -- no pathlib on this path
_LIBRARY_PARTS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_STDLIB = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")} - {None, ""})
_known: dict[str, bool] = {}  # by file: equal code objects may stand in several


def is_user_code(code: CodeType) -> bool:
    """Whether a code object comes from the user's own files (or a notebook cell)."""
    path = code.co_filename
    known = _known.get(path)
    if known is None:
        known = _known[path] = _is_user_file(path)
    return known


def _is_user_file(path: str) -> bool:
    if path.startswith("<") and not path.startswith("<ipython"):
        return path == "<stdin>" or path == "<string>"
    if path.startswith(_OURS + os.sep) or any(part in path for part in _LIBRARY_PARTS):
        return False
    return not path.startswith(_STDLIB)


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost user's frame at or below `frame`."""
    while frame is not None and not is_user_code(frame.f_code):
        frame = frame.f_back
    return frame


def caller(depth: int = 1) -> dict[str, Any] | None:
    """File, line and function of the user's innermost frame, `depth` frames up or beyond; for a note."""
    frame = user_frame(sys._getframe(depth))
    if frame is None:
        return None
    return {
        "file": os.path.abspath(frame.f_code.co_filename),  # noqa: PTH100
        "line": frame.f_lineno,
        "function": frame.f_code.co_name,
    }
