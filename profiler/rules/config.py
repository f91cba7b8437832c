"""Which rules run, and with which thresholds.

In:  the `[tool.prof]` table of the user's `pyproject.toml`, as a dict.
Out: `RulesConfig`.

    [tool.prof]
    select = ["data", "host/python-line"]     # families or ids; all rules where it is absent
    ignore = ["run/startup-dominates"]

    [tool.prof.rules."data/too-few-workers"]
    min_batch_ms = 5
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from profiler.errors import ProfError


@dataclass(frozen=True, slots=True)
class RulesConfig:
    """The user's choice of rules. Names are checked against the catalogue when it is built."""

    select: tuple[str, ...] = ()  # ids or families; empty: all
    ignore: tuple[str, ...] = ()  # ids or families
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # rule id → threshold → value

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> RulesConfig:
        """From the `[tool.prof]` table; keys that are not about rules are somebody else's.

        Raises ProfError where a value has the wrong type.
        """
        return cls(_names(table, "select"), _names(table, "ignore"), _thresholds(table.get("rules", {})))

    def runs(self, rule_id: str) -> bool:
        """Whether the rule is to be asked."""
        named = (rule_id, rule_id.split("/")[0])
        return (not self.select or any(name in self.select for name in named)) and not any(
            name in self.ignore for name in named
        )


def _names(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise ProfError(f'[tool.prof] {key} must be a list of rule ids or families, as in {key} = ["data"].')
    return tuple(value)


def _thresholds(rules: object) -> dict[str, dict[str, float]]:
    if not isinstance(rules, Mapping):
        raise ProfError('[tool.prof.rules] must hold one table per rule, as in [tool.prof.rules."memory/growth"].')
    result: dict[str, dict[str, float]] = {}
    for rule_id, values in rules.items():
        if not isinstance(values, Mapping):
            raise ProfError(f'[tool.prof.rules."{rule_id}"] must be a table of thresholds.')
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ProfError(f'[tool.prof.rules."{rule_id}"] {name} must be a number, not {value!r}.')
        result[str(rule_id)] = {str(name): float(value) for name, value in values.items()}
    return result
