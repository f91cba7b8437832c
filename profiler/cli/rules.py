"""`prof rules`: what the tool looks for, and why."""

from __future__ import annotations

import json
import sys

import click

from profiler.rules.base import Rule
from profiler.rules.catalogue import families, find_rule, rule_types
from profiler.rules.docs import rule_page, rule_url


@click.command("rules")
@click.argument("rule_id", metavar="[ID|FAMILY]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the rules.")
def command(rule_id: str | None, as_json: bool) -> None:
    """Show what the tool looks for, and why.

    \b
    prof rules                          every rule, by family
    prof rules data                     the rules of one family
    prof rules data/too-few-workers     one rule: evidence, fix, gain, thresholds
    prof rules --json                   the same for machines
    """
    if rule_id is None or rule_id in families():
        chosen = [rule for rule in rule_types() if rule_id in (None, rule.family())]
    else:
        chosen = [find_rule(rule_id)]
    if as_json:
        click.echo(json.dumps([_entry(rule) for rule in chosen], indent=2))
    elif rule_id is None or rule_id in families():
        _print_list(chosen)
    else:
        _print_page(chosen[0])


def _entry(rule: type[Rule]) -> dict[str, str]:
    return {
        "id": rule.id,
        "family": rule.family(),
        "bottleneck": rule.bottleneck.value,
        "title": rule.text().title,
        "evidence": rule.evidence,
        "url": rule_url(rule),
    }


def _print_list(rules: list[type[Rule]]) -> None:
    width = max(len(rule.id) for rule in rules)
    about = families()
    for family in dict.fromkeys(rule.family() for rule in rules):
        click.echo(f"{click.style(family, bold=True)}  {about[family]}")
        for rule in rules:
            if rule.family() == family:
                click.echo(f"  {rule.id:<{width}}  {rule.text().title}")
        click.echo()
    click.echo("prof rules ID shows one of them in full.")


def _print_page(rule: type[Rule]) -> None:
    page = rule_page(rule)
    if not sys.stdout.isatty():
        click.echo(page, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(page))
