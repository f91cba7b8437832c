"""`# prof: ignore[rule/id]` on the user's line silences a rule there.

In:  a finding, and a way to read the user's lines.
Out: whether the line that it points at asks for silence.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable

from profiler.rules.base import Finding

ReadLine = Callable[[str, int], str]  # (file, line) → its text, "" where it can't be read

_COMMENT = re.compile(r"#\s*prof:\s*ignore(?:\[(?P<rules>[^\]]*)\])?", re.IGNORECASE)


def line_of_file(file: str, line: int) -> str:
    """The line as it stands in the file now."""
    return linecache.getline(file, line)


def asks_for_silence(source: str, rule_id: str) -> bool:
    """Whether a line's comment silences the rule: by its id, by its family, or by naming none at all."""
    match = _COMMENT.search(source)
    if match is None:
        return False
    if match["rules"] is None:
        return True
    names = {name.strip() for name in match["rules"].split(",")}
    return bool(names & {rule_id, rule_id.split("/")[0]})


def is_silenced(finding: Finding, read_line: ReadLine) -> bool:
    """Whether the line that the finding would change asks for silence."""
    if finding.fix.file is None or finding.fix.line is None:
        return False
    return asks_for_silence(read_line(finding.fix.file, finding.fix.line), finding.rule)
