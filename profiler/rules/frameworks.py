"""Whose arguments the user sets: the training frameworks that were loaded in the training process.

In:  facts.
Out: code with the trainer's own argument added, where one is in use.
"""

from __future__ import annotations

from collections.abc import Mapping

from profiler.analysis.facts import Facts

NAMES = {"transformers": "the Hugging Face Trainer", "lightning": "Lightning"}


def framework_of(facts: Facts) -> str | None:
    """ "transformers" or "lightning" where its trainer was loaded; None for a plain loop, or where it was not seen."""
    loaded = facts.settings.values.get("frameworks")
    return next((name for name in NAMES if isinstance(loaded, list) and name in loaded), None)


def with_arguments(code: str, facts: Facts, arguments: Mapping[str, str]) -> str:
    """`code`, led by the trainer's own argument where the training runs under a trainer that has one."""
    framework = framework_of(facts)
    own = arguments.get(framework) if framework else None
    if framework is None or own is None:
        return code
    return f"# with {NAMES[framework]}:\n{own}\n\n# in a loop of your own:\n{code}"
