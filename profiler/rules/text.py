"""A rule's one text, cut into its sections.

In:  a rule's docstring.
Out: `RuleText`, from which come `prof rules`, the finding's reference and the pages of `docs/rules/`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

SECTIONS = ("Why it is slow", "Evidence", "Fix", "Gain", "Reference")


@dataclass(frozen=True, slots=True)
class RuleText:
    """What a rule says of itself."""

    title: str  # the first line, without its full stop
    sections: tuple[tuple[str, str], ...]  # (heading, text), in the order written

    def section(self, heading: str) -> str:
        """The text under a heading, as one paragraph; "" where there is none."""
        return next((" ".join(text.split()) for name, text in self.sections if name == heading), "")


def rule_text(docstring: str) -> RuleText:
    """Parse a rule's docstring: a first line, then `## ` sections."""
    lines = inspect.cleandoc(docstring).splitlines()
    title = lines[0].strip().rstrip(".") if lines else ""
    sections: list[tuple[str, list[str]]] = []
    for line in lines[1:]:
        if line.startswith("## "):
            sections.append((line[3:].strip(), []))
        elif sections:
            sections[-1][1].append(line)
    return RuleText(title, tuple((name, "\n".join(body).strip()) for name, body in sections))
