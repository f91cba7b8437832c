"""The catalogue: finds the rules, asks each, and adds up what they say.

In:  the facts of a run and the user's `RulesConfig`. Out: a `Judgement`.

A rule is a class in a module of a family's folder, `profiler/rules/<family>/*.py`; adding one touches that
file.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from types import ModuleType

import profiler.rules
from profiler.analysis.facts import Facts
from profiler.errors import ProfError
from profiler.rules.base import Abstention, Bottleneck, Finding, Rule, Severity
from profiler.rules.config import RulesConfig
from profiler.rules.evidence import host_times, missing, steps_to_judge, steps_to_look, why_host_times
from profiler.rules.frameworks import with_arguments
from profiler.rules.silence import ReadLine, is_silenced, line_of_file
from profiler.rules.verdict import Judgement, decide

FOLD_SHARE = 0.5  # a cause hides its consequence where it recovers at least this share of what that would
_SEVERITIES = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


@cache
def rule_types() -> tuple[type[Rule], ...]:
    """Every rule of the catalogue, by id. Raises TypeError where a rule is badly made."""
    found: dict[str, type[Rule]] = {}
    for family, module in _modules():
        for rule in _rules_of(module):
            if rule.id.split("/")[0] != family or rule.id.count("/") != 1:
                raise TypeError(f"{rule.__qualname__}: the id {rule.id!r} does not begin with {family}/")
            if rule.id in found:
                raise TypeError(f"{rule.id} is defined twice")
            found[rule.id] = rule
    return tuple(found[rule_id] for rule_id in sorted(found))


def families() -> dict[str, str]:
    """The families and what each is about, from the docstrings of their folders."""
    names = sorted({rule.family() for rule in rule_types()})
    return {name: inspect.cleandoc(import_module(f"profiler.rules.{name}").__doc__ or "") for name in names}


def catalogue(config: RulesConfig | None = None) -> tuple[Rule, ...]:
    """The rules that run under a configuration, with its thresholds.

    Raises ProfError where the configuration names a rule, a family or a threshold that does not exist.
    """
    config = config or RulesConfig()
    types = {rule.id: rule for rule in rule_types()}
    for key, names in (("select", config.select), ("ignore", config.ignore)):
        for name in names:
            _known(name, (*types, *families()), f"[tool.prof] {key} names", "rule or family")
    for rule_id, values in config.thresholds.items():
        _known(rule_id, types, "[tool.prof.rules] names", "rule")
        for name in values:
            _known(name, types[rule_id].thresholds(), f'[tool.prof.rules."{rule_id}"] sets', "threshold")
    return tuple(
        rule(dict(config.thresholds.get(rule_id, {}))) for rule_id, rule in types.items() if config.runs(rule_id)
    )


def find_rule(rule_id: str) -> type[Rule]:
    """The rule of that id. Raises ProfError, with the nearest ids, where there is none."""
    types = {rule.id: rule for rule in rule_types()}
    _known(rule_id, types, "there is", "rule")
    return types[rule_id]


def judge(facts: Facts, config: RulesConfig | None = None, read_line: ReadLine = line_of_file) -> Judgement:
    """Ask every rule, fold what a stronger cause explains, rank the rest and decide.

    `read_line` reads the user's source for `# prof: ignore[…]` comments. A rule that raises becomes a failure
    and hides no other.
    """
    return judge_by(catalogue(config), facts, read_line)


def judge_by(rules: Iterable[Rule], facts: Facts, read_line: ReadLine = line_of_file) -> Judgement:
    """`judge`, by rules of the caller's."""
    rules = tuple(rules)
    found: list[Finding] = []
    silenced: list[Finding] = []
    abstentions: list[Abstention] = []
    failures: list[tuple[str, str]] = []
    for rule in rules:
        try:
            said = _ask(rule, facts)
            quiet = [finding for finding in said if isinstance(finding, Finding) and is_silenced(finding, read_line)]
        except Exception as error:
            failures.append((rule.id, f"{type(error).__name__}: {error}"))
            continue
        silenced += quiet
        abstentions += [answer for answer in said if isinstance(answer, Abstention)]
        found += [answer for answer in said if isinstance(answer, Finding) and answer not in quiet]
    if facts.steps is None or facts.steps.measured < steps_to_judge(facts):
        per_step = {rule.id for rule in rules if rule.per_step}
        found = [replace(f, severity=Severity.INFO) if f.rule in per_step else f for f in found]
    kept, folded = fold(rules, found)
    ranked = rank(kept)
    return Judgement(decide(facts, ranked), ranked, tuple(abstentions), tuple(failures), tuple(folded), tuple(silenced))


def fold(rules: Iterable[Rule], findings: Sequence[Finding]) -> tuple[list[Finding], list[tuple[Finding, str]]]:
    """Part the findings that stand from those that a stronger one explains, each with its cause's rule."""
    by_id = {rule.id: rule for rule in rules}
    kept: list[Finding] = []
    folded: list[tuple[Finding, str]] = []
    for finding in findings:
        causes = by_id[finding.rule].explained_by
        cause = next((other for other in findings if _explains(other, finding, causes, by_id)), None)
        if cause is None:
            kept.append(finding)
        else:
            folded.append((finding, cause.rule))
    return kept, folded


def rank(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What forbids a judgement and memory running out come first; then severity and milliseconds decide."""
    return tuple(
        sorted(
            findings,
            key=lambda f: (not _first(f), _SEVERITIES.index(f.severity), -f.recoverable_ms, f.rule, f.title),
        )
    )


def _first(finding: Finding) -> bool:
    urgent = finding.bottleneck is Bottleneck.MEMORY and finding.severity is Severity.CRITICAL
    return urgent or finding.bottleneck is Bottleneck.NONE


def _explains(cause: Finding, finding: Finding, causes: tuple[str, ...], by_id: dict[str, Rule]) -> bool:
    if cause.rule == finding.rule:
        return False
    if "*" in causes and by_id[cause.rule].per_step and cause.severity is not Severity.INFO:
        return True
    elsewhere = (cause.fix.file, cause.fix.line) != (finding.fix.file, finding.fix.line)
    if by_id[finding.rule].same_line and cause.fix.line is not None and elsewhere:
        return False
    return cause.rule in causes and cause.recoverable_ms >= FOLD_SHARE * finding.recoverable_ms


def _ask(rule: Rule, facts: Facts) -> list[Finding | Abstention]:
    """What a rule says; one that judges the step is not asked over too few steps or the wrong clock."""
    if rule.per_step and (facts.steps is None or facts.steps.measured < steps_to_look(facts)):
        return []  # `run/no-training` and `run/too-few-steps` say so once for all
    if rule.per_step and rule.needs_device_times and host_times(facts):
        return [rule.abstain(why_host_times(facts))]
    if rule.per_step and rule.needs_device_times and facts.trace is not None and facts.trace.thinned:
        return [rule.abstain(missing(facts))]
    answer = rule.check(facts)
    if answer is None:
        return []
    said = [answer] if isinstance(answer, (Finding, Abstention)) else answer
    return [_in_the_trainers_way(rule, it, facts) if isinstance(it, Finding) else it for it in said]


def _in_the_trainers_way(rule: Rule, finding: Finding, facts: Facts) -> Finding:
    """The same finding; its code led by the trainer's argument, where the training runs under one that has one."""
    if not rule.arguments:
        return finding
    return replace(finding, fix=replace(finding.fix, code=with_arguments(finding.fix.code, facts, rule.arguments)))


def _modules() -> Iterator[tuple[str, ModuleType]]:
    for family in sorted(pkgutil.iter_modules(profiler.rules.__path__), key=lambda info: info.name):
        if family.ispkg:
            package = import_module(f"profiler.rules.{family.name}")
            for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
                yield family.name, import_module(f"{package.__name__}.{info.name}")


def _rules_of(module: ModuleType) -> Iterator[type[Rule]]:
    for value in vars(module).values():
        own = isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module.__name__
        if own and "id" in vars(value):
            yield value


_MOST_NAMED = 20  # in a message


def _known(name: str, names: Iterable[str], where: str, what: str) -> None:
    names = list(names)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near += [other for other in names if name and name in other and other not in near]
    if near:
        hint = f"did you mean {' or '.join(near[:3])}?"
    elif len(names) > _MOST_NAMED:
        hint = f"`prof rules` lists all {len(names)}."
    else:
        hint = f"there are: {', '.join(names) or 'none'}."
    negative = f"{where} no {what} {name!r}" if where == "there is" else f"{where} the unknown {what} {name!r}"
    raise ProfError(f"{negative}; {hint}")
