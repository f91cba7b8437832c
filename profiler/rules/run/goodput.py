"""run/goodput."""

from __future__ import annotations

from collections.abc import Iterable

from profiler.analysis.facts import Facts, SpanFacts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import STEPS_TO_JUDGE, share_of_run
from profiler.rules.phrases import joined, percent, seconds


class Goodput(Rule):
    """Little of the run trains, and no single cause takes the rest.

    ## Why it is slow
    Starting, compiling, evaluating and saving each take a part that looks small, and together they take more
    than the training.

    ## Evidence
    The run lasted at least `min_run_s`, its steps took less than `trained` of it, and the spans that were
    seen around them at least `around`; of spans that lie within one another the outer one counts. Time that
    no span names is not counted. It gives way to the rule of a span that dominates alone.

    ## Fix
    Begin with the longest of them.

    ## Gain
    Of the run, not of the step: at most the spans' seconds.

    ## Reference
    Google Cloud, "Goodput" as the share of time that makes progress.
    """

    id = "run/goodput"
    bottleneck = Bottleneck.OTHER
    explained_by = (
        "run/evaluation-dominates",
        "run/checkpoint-dominates",
        "run/startup-dominates",
        "run/compile-dominates",
    )
    per_step = False
    needs_device_times = False
    trained = Threshold(0.5, "share of the run in training steps below which it is told")
    around = Threshold(0.3, "share of the run in spans around the steps from which it is told")
    min_run_s = Threshold(60.0, "length of a run below which nothing is said, in seconds")

    def check(self, facts: Facts) -> Outcome:
        """Judge the share of the run that trained."""
        trained, whole = share_of_run(facts), facts.run.duration_s
        if facts.steps is None or trained is None or facts.steps.measured < STEPS_TO_JUDGE:
            return None
        spent = own_seconds(span for span in facts.spans if span.name != "instrument")
        total = sum(spent.values())
        if whole < self.min_run_s.value or trained >= self.trained.value or total < self.around.value * whole:
            return None
        longest = next(span for span in facts.spans if span.name == next(iter(spent)))
        return self.finding(
            title=f"training steps take {percent(trained)} of the run's {seconds(whole)}",
            why=(
                f"Around them the run spent {joined(f'{seconds(took)} on {name}' for name, took in spent.items())}: "
                f"{percent(total / whole)} of it together."
            ),
            evidence={
                "steps_share_of_run": trained,
                "around_share_of_run": total / whole,
                "duration_s": whole,
                **{f"{name}_s": took for name, took in spent.items()},
            },
            fix=Fix.at(longest.site, f"Make {longest.name} shorter or rarer first.", _CODE[longest.name])
            if longest.name in _CODE
            else Fix.at(longest.site, f"Make {longest.name} shorter or rarer first."),
            severity=Severity.INFO,
        )


def own_seconds(spans: Iterable[SpanFacts]) -> dict[str, float]:
    """Seconds of each span that no other one holds already, most first.

    Of two that overlap the outer one counts: startup before all, then whichever took longer. Of a span with more
    intervals than are kept, those that are kept stand for the others.
    """
    spent: dict[str, float] = {}
    taken: list[tuple[float, float]] = []
    for span in sorted(spans, key=lambda span: (span.name != "startup", -span.total_s)):
        kept_s = sum(end - start for start, end in span.intervals_s)
        free_s = sum(_length(start, end) - _overlap(start, end, taken) for start, end in span.intervals_s)
        spent[span.name] = span.total_s * free_s / kept_s if kept_s > 0 else span.total_s
        taken = _union([*taken, *span.intervals_s])
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def _length(start: float, end: float) -> float:
    return max(0.0, end - start)


def _overlap(start: float, end: float, taken: Iterable[tuple[float, float]]) -> float:
    return sum(_length(max(start, other), min(end, until)) for other, until in taken)


def _union(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same stretches, none of which overlaps another."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


_CODE = {
    "evaluation": "if epoch % 5 == 0:\n    with torch.inference_mode():\n        evaluate(model)",
    "checkpoint": 'if step % 1000 == 0:\n    torch.save(model.state_dict(), "model.pt")',
    "startup": 'index = torch.load("index.pt", mmap=True)  # kept from an earlier run',
    "compile": "# in the shell: TORCH_LOGS=recompiles python train.py, which tells why it compiles again",
}
