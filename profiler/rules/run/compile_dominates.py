"""run/compile-dominates."""

from __future__ import annotations

from typing import Any

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import share_of_run
from profiler.rules.phrases import counted, percent, seconds


class CompileDominates(Rule):
    """Compiling takes a large part of the run.

    ## Why it is slow
    `torch.compile` makes code for each graph when it is first run, while the loop stands still; where
    shapes or Python values change from step to step, it compiles again.

    ## Evidence
    The run lasted at least `min_run_s`, and the compiler ran for at least `note` of it; from `warn` on it
    is a warning. Short trials are dominated by it, and are not judged.

    ## Fix
    Find out by `TORCH_LOGS=recompiles` whether it compiles again, and mark what changes as dynamic; take
    the default mode instead of `max-autotune`; or train longer for each start.

    ## Gain
    Of the run, not of the step: at most the span's seconds.

    ## Reference
    torch.compile, "Dynamic shapes" and "Recompilation".
    """

    id = "run/compile-dominates"
    bottleneck = Bottleneck.OTHER
    per_step = False
    needs_device_times = False
    note = Threshold(0.25, "share of the run from which it is told")
    warn = Threshold(0.50, "share of the run from which it is a warning")
    min_run_s = Threshold(60.0, "length of a run below which nothing is said, in seconds")

    def check(self, facts: Facts) -> Outcome:
        """Judge the compiler's share of the run."""
        span = next((span for span in facts.spans if span.name == "compile"), None)
        if span is None or facts.steps is None:
            return None
        if facts.run.duration_s < self.min_run_s.value or span.share_of_run < self.note.value:
            return None
        steps = share_of_run(facts)
        trained = f" The training steps take {percent(steps)} of the run." if steps is not None else ""
        summary, code = _cure(facts.settings.values.get("compile"))
        return self.finding(
            title=f"the run compiles for {percent(span.share_of_run)} of its {seconds(facts.run.duration_s)}",
            why=(
                f"The compiler ran {counted(span.count, 'time')} and took {seconds(span.total_s)}, "
                f"{seconds(span.longest_s)} at the longest.{trained}"
            ),
            evidence={
                "share_of_run": span.share_of_run,
                "total_s": span.total_s,
                "count": float(span.count),
                "longest_s": span.longest_s,
                **({"steps_share_of_run": steps} if steps is not None else {}),
            },
            fix=Fix.at(facts.settings.sites.get("compile") or span.site, summary, code),
            severity=Severity.WARNING if span.share_of_run >= self.warn.value else Severity.INFO,
        )


def _cure(given: Any) -> tuple[str, str]:
    """By the arguments of torch.compile, where its call was seen."""
    mode = given.get("mode") if isinstance(given, dict) else None
    if isinstance(mode, str) and mode.startswith("max-autotune"):
        return (
            f"Compile in the default mode instead of {mode}, which times many candidates of each kernel.",
            "model = torch.compile(model)",
        )
    return "See whether it compiles again, and mark the sizes that change as dynamic.", _CODE


_CODE = """\
# in the shell: TORCH_LOGS=recompiles python train.py, which tells each time why
torch._dynamo.mark_dynamic(inputs, 1)  # the dimension whose size changes; or torch.compile(model, dynamic=True)"""
