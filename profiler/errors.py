"""The one error a user ever sees from us: a sentence that says what was wrong and what to do."""

from __future__ import annotations


class ProfError(Exception):
    """Bad input or a broken environment, told in one sentence; the command line prints it and exits non-zero."""
