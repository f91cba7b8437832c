"""The recording that is under way in this process, if there is one.

Kept on `sys`, since the launcher loads this package under a private name beside the one that a script imports.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .session import Session

_ATTRIBUTE = "_trainprof_session"


def current_session() -> Session | None:
    """The session that records now."""
    return cast("Session | None", getattr(sys, _ATTRIBUTE, None))


def set_current_session(session: Session | None) -> None:
    """Make `session` the one that records, or none."""
    setattr(sys, _ATTRIBUTE, session)
