"""What each scenario's header promises.

A header is the script's docstring: a first sentence, then lines of `Word: value`.

    Planted: what is wrong, or "nothing" in a healthy training
    Where:   the text of the line at which the finding points
    Verdict: the bottleneck's word, or several with " | " between them
    Rule:    the rule that must speak; "data/" stands for any rule of that family
    Also:    further rules, with ", " between them, that must speak here, be it in a note, and not in the twin
    Note:    the rule is a note by its nature: it need not be more than that
    Twin:    the bottleneck's word in the cured twin, where it is not "compute"
    Settings: thresholds for this script, as in "run/drift.min_s = 2, run/drift.slower = 0.1"
    Span:    a span of the run, and the least share of the run that it takes
    Ranks:   it runs on so many ranks, under torchrun
    Cores:   it needs so many, where not one
    Live:    "yes": every run of the tests runs it; of the others they judge recordings alone (tests/recorded)
    Cured:   how the twin differs; the script then takes --cured
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ON_GPU = FOLDER.parent / "on_gpu"
NOT_SCENARIOS = {"attach", "attempts", "conftest", "labels", "store", "hand_timed", "expected"}


@dataclass(frozen=True, slots=True)
class Label:
    """The expectations of one script."""

    name: str
    path: Path
    planted: str
    line: int | None  # of the planted fault
    verdicts: tuple[str, ...]
    rule: str  # empty in a healthy training
    span: tuple[str, float] | None
    cured: str | None
    also: tuple[str, ...] = ()
    note: bool = False
    twin: tuple[str, ...] = ("compute",)
    settings: tuple[tuple[str, str, float], ...] = ()  # (rule, threshold, value)
    ranks: int = 1
    cores: int = 1
    live: bool = False

    @property
    def thresholds(self) -> dict[str, dict[str, float]]:
        """What it asks of rules: rule → threshold → value."""
        found: dict[str, dict[str, float]] = {}
        for rule, threshold, value in self.settings:
            found.setdefault(rule, {})[threshold] = value
        return found

    @property
    def pyproject(self) -> str:
        """The same as a pyproject.toml."""
        tables = [
            "\n".join([f'[tool.prof.rules."{rule}"]', *(f"{name} = {value}" for name, value in held.items())])
            for rule, held in self.thresholds.items()
        ]
        return "\n".join(tables) + "\n"

    @property
    def command(self) -> list[str]:
        """What `prof attach` is to run."""
        if self.ranks == 1:
            return [str(self.path)]
        return ["--", "torchrun", "--standalone", "--nproc-per-node", str(self.ranks), str(self.path)]

    @property
    def rules(self) -> tuple[str, ...]:
        """Every rule of which this script is a proof."""
        return (self.rule, *self.also) if self.exact else self.also

    @property
    def healthy(self) -> bool:
        """Nothing is planted."""
        return self.planted == "nothing"

    @property
    def exact(self) -> bool:
        """One rule must speak, not any of a family."""
        return bool(self.rule) and not self.rule.endswith("/")


def read_label(path: Path) -> Label:
    """Read a script's header; a header that cannot be true raises ValueError."""
    source = path.read_text()
    docstring = ast.get_docstring(ast.parse(source)) or ""
    words = dict(line.split(":", 1) for line in docstring.splitlines() if ":" in line and line[0].isupper())
    words = {word: value.strip() for word, value in words.items()}
    where = words.get("Where")
    span = words.get("Span", "").split()
    return Label(
        name=path.stem,
        path=path,
        planted=words["Planted"],
        line=line_of(where, source) if where else None,
        verdicts=tuple(word.strip() for word in words["Verdict"].split("|")),
        rule=words.get("Rule", ""),
        span=(span[0], float(span[1])) if span else None,
        cured=words.get("Cured"),
        also=tuple(filter(None, (word.strip() for word in words.get("Also", "").split(",")))),
        note="Note" in words,
        twin=tuple(word.strip() for word in words.get("Twin", "compute").split("|")),
        settings=tuple(map(_setting, filter(None, words.get("Settings", "").split(",")))),
        ranks=int(words.get("Ranks", 1)),
        cores=int(words.get("Cores", 1)),
        live=words.get("Live") == "yes" or words["Planted"] == "nothing",
    )


def _setting(text: str) -> tuple[str, str, float]:
    """`rule.threshold = value`."""
    name, value = text.split("=")
    rule, threshold = name.strip().rsplit(".", 1)
    return rule, threshold, float(value)


def line_of(text: str, source: str) -> int:
    """The number of the one line of code that reads `text`."""
    found = [number for number, line in enumerate(source.splitlines(), start=1) if line.strip() == text]
    if len(found) != 1:
        raise ValueError(f"{len(found)} lines read {text!r}, where one should")
    return found[0]


def on_gpu() -> list[Label]:
    """All labelled scripts for a GPU, by name; what one of them recorded lies in `tests/recorded`."""
    return [read_label(path) for path in sorted(ON_GPU.glob("*.py")) if path.stem not in ("parts", "test_on_gpu")]


def scenarios() -> list[Label]:
    """All labelled scripts, by name."""
    paths = sorted(FOLDER.glob("*.py"))
    return [read_label(p) for p in paths if p.stem not in NOT_SCENARIOS and not p.stem.startswith("test_")]
