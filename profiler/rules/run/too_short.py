"""run/no-training and run/too-few-steps: what can't be judged, and why."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import STEPS_TO_JUDGE, steps_to_judge
from profiler.rules.phrases import counted


class NoTraining(Rule):
    """No training step was seen.

    ## Why it is slow
    There is nothing to be slow: the run held no optimizer step, backward pass or batch that could be cut
    into steps.

    ## Evidence
    The record holds no step. The likely reasons come from what the record does hold: the exit code, what
    was switched off, what could not be hooked.

    ## Fix
    Run a script that trains, by the Python that the tool is installed in; where the loop can't be
    recognised, mark its steps by `profiler.step()`.

    ## Gain
    None.

    ## Reference
    `prof attach --help`.
    """

    id = "run/no-training"
    evidence = "training"
    bottleneck = Bottleneck.NONE
    per_step = False
    needs_device_times = False

    def check(self, facts: Facts) -> Outcome:
        """Say that nothing trained, with the likely reasons."""
        if facts.steps is not None:
            return None
        if facts.trace is None and facts.run.exit_code and facts.run.torch is None:
            return self.finding(
                title="no training step was seen",
                why=f"The script failed with exit code {facts.run.exit_code} before it imported torch.",
                evidence={"duration_s": facts.run.duration_s},
                fix=_MEND,
                severity=Severity.WARNING,
            )
        reasons = _reasons(facts)
        return self.finding(
            title="no training step was seen",
            why="Likely reasons: " + " ".join(f"({n}) {reason}." for n, reason in enumerate(reasons, 1)),
            evidence={"duration_s": facts.run.duration_s},
            fix=_MEND
            if facts.run.exit_code
            else Fix("Run the script that trains, or mark the steps of its loop.", _STEP),
            severity=Severity.WARNING,
        )


class TooFewSteps(Rule):
    """Too few steps were measured to judge the training.

    ## Why it is slow
    That can't be told yet: the first steps load, compile and fill caches, and the spread of a few steps
    hides what is real.

    ## Evidence
    Fewer than `steps` steps after warm-up. Until then no finding is called more than a note.

    ## Fix
    Run longer; the sentence says how many steps more.

    ## Gain
    None.

    ## Reference
    `prof attach --help`.
    """

    id = "run/too-few-steps"
    evidence = "training"
    bottleneck = Bottleneck.NONE
    per_step = False
    needs_device_times = False
    steps = Threshold(STEPS_TO_JUDGE, "measured steps needed")

    def check(self, facts: Facts) -> Outcome:
        """Say how many steps are missing."""
        steps = facts.steps
        needed = int(self.steps.value) if facts.trace is None else steps_to_judge(facts)
        if steps is None or steps.measured >= needed or (facts.trace is not None and facts.trace.thinned):
            return None  # of a trace that was thinned out more steps would tell no more
        missing = needed - steps.measured
        warmup = f", and {counted(steps.warmup, 'step', 'steps')} of warm-up left out" if steps.warmup else ""
        return self.finding(
            title=(
                f"too short to judge: {counted(steps.measured, 'step was', 'steps were')} measured, "
                f"{needed} are needed, so {'record' if facts.trace else 'run'} at least {missing} more"
            ),
            why=(
                f"The run made {counted(steps.count, 'step')}{warmup}. "
                "What else is found is a note, not yet a diagnosis."
            ),
            evidence={"measured_steps": float(steps.measured), "missing_steps": float(missing)},
            fix=Fix(f"{'Record' if facts.trace else 'Run'} at least {counted(missing, 'step')} more."),
            severity=Severity.INFO,
        )


_MEND = Fix("Mend the script's own error first: it stands above this report.")
_STEP = """\
import profiler

for ...:  # your loop
    ...
    profiler.step()  # one optimizer update ends here"""


def _reasons(facts: Facts) -> list[str]:
    reasons = [notice.rstrip(".") for notice in facts.notices]
    if facts.trace is not None:
        return [*reasons, facts.not_measured.get("steps", "the trace holds no whole step").rstrip(".")]
    if facts.run.signal:
        reasons.append(f"{facts.run.signal} ended the script before its first step")
    elif facts.run.exit_code:
        reasons.append(f"the script failed with exit code {facts.run.exit_code} before its first step")
    elif not facts.run.ended and facts.run.exit_code is None:
        reasons.append("the process ended without a word before its first step")
    seen = [name for name in ("forward", "data_wait") if name in facts.stages]
    if facts.settings.optimizers:
        reasons.append("an optimizer was made, but its step() was never reached")
    elif facts.settings.roots or seen:
        reasons.append("the model ran, but no optimizer was made: this looks like evaluation or inference")
    elif facts.run.torch is None:
        reasons.append("the script never imported torch, or a Python that ignores its environment did (-E, -I)")
    else:
        reasons.append("torch was imported, but no module, loader or optimizer of it was used")
    missing = (facts.not_measured.get(what, "").rstrip(".") for what in ("steps", "training"))
    reasons.extend(filter(None, missing))
    return list(dict.fromkeys(reasons))
