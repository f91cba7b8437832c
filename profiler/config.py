"""Settings: `[tool.prof]` of the nearest pyproject.toml, then the environment, then flags.

Standard library only.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import ProfError

_TABLES = ("rules", "planner", "plan", "select", "ignore")  # read by those whose they are
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


@dataclass(frozen=True)
class Config:
    """What the user may set for a recording; each field is a key of `[tool.prof]` and a variable `PROF_<NAME>`."""

    output: str = "reports"
    deep: bool = True
    sample_interval_ms: float = 10.0
    max_disk_mb: int = 256
    memory_history: bool = False
    report: bool = True
    quiet: bool = False
    peak_tflops: float = 0.0  # of the device, in the format that the model computes in; 0: measured


def read_table(start: Path) -> dict[str, Any]:
    """The `[tool.prof]` table that holds at `start`; {} where there is none. Raises ProfError."""
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            return _parse(path)
    return {}


def _parse(path: Path) -> dict[str, Any]:
    tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("prof", {})
    except (OSError, ValueError) as error:
        raise ProfError(f"cannot read {path}: {error}. Mend the file, or run from another folder.") from error
    if not isinstance(table, dict):
        raise ProfError(f"[tool.prof] in {path} must be a table.")
    return table


def load_config(start: Path, flags: dict[str, Any] | None = None) -> Config:
    """Settings for a recording begun in `start`; `flags` that are None were not given. Raises ProfError."""
    config = Config()
    for source, values in (
        ("[tool.prof]", {key: value for key, value in read_table(start).items() if key not in _TABLES}),
        ("the environment", _from_environment()),
        ("flags", {key: value for key, value in (flags or {}).items() if value is not None}),
    ):
        _known(source, values)
        config = replace(config, **{key: _checked(source, key, value) for key, value in values.items()})
    return config


def _known(source: str, names: Iterable[str]) -> None:
    """Raise ProfError, with all names that no setting has."""
    settings = [field.name for field in fields(Config)]
    wrong = [name for name in names if name not in settings]
    if not wrong:
        return
    near = {name: difflib.get_close_matches(name, settings, n=1) for name in wrong}
    hints = "; ".join(f"did you mean {close[0]!r} for {name!r}?" for name, close in near.items() if close)
    known = f"known are: {', '.join(settings)}."
    raise ProfError(f"{source} has no setting {', '.join(map(repr, wrong))}: {hints or known}")


def _from_environment() -> dict[str, str]:
    names = {f"PROF_{field.name.upper()}": field.name for field in fields(Config)}
    return {names[variable]: value for variable, value in os.environ.items() if variable in names}


def _checked(source: str, key: str, value: Any) -> Any:
    defaults = {field.name: field.default for field in fields(Config)}
    kind: Any = type(defaults[key])
    try:
        if kind is bool:
            return _boolean(value)
        result = kind(value)
    except (TypeError, ValueError) as error:
        raise ProfError(f"{key} in {source} is {value!r}: it must be a {kind.__name__}.") from error
    if kind in (int, float) and result <= 0:
        raise ProfError(f"{key} in {source} is {value!r}: it must be more than 0.")
    return result


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError(text)
