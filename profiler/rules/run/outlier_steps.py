"""run/outlier-steps."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Severity, Threshold, severity_of
from profiler.rules.evidence import STEPS_TO_JUDGE, worth
from profiler.rules.phrases import joined, ms, percent

LEAST = 0.5  # of the outliers' time that goes: some of it was work

_CURES = {
    "garbage collection": (
        "Freeze what lives on, and collect at times of your own choice.",
        "gc.collect()\ngc.freeze()  # after the set-up\ngc.disable()\n"
        "if step % 1000 == 0:  # in the loop\n    gc.collect()",
    ),
    "epoch boundary": (
        "Keep the workers alive between epochs, or let one pass of the loader go over several.",
        "DataLoader(..., persistent_workers=True)  # the other arguments stay",
    ),
    "compilation": (
        "Mark the sizes that change as dynamic, so that it is compiled once.",
        "# in the shell: TORCH_LOGS=recompiles python train.py\ntorch._dynamo.mark_dynamic(inputs, 0)",
    ),
    "after a checkpoint": (
        "Write checkpoints from another thread, out of a copy.",
        'threading.Thread(target=torch.save, args=(copy.deepcopy(model.state_dict()), "model.pt")).start()',
    ),
    "after an evaluation": (
        "Keep what evaluation replaces: other batch sizes make caches and workers start anew.",
        "validation = DataLoader(..., batch_size=batch_size, persistent_workers=True)  # as in training",
    ),
    "an exception": (
        "Look at what raises in the loop: each exception unwinds and prints.",
        "# filter out before the loop what can't be trained on",
    ),
}


class OutlierSteps(Rule):
    """A few steps take many times as long as the others.

    ## Why it is slow
    Most steps are alike; now and then one waits for something that is not the model: a collection of garbage, an
    epoch's end, the compiler, a checkpoint that the disk still writes. On many ranks every rank waits for it.

    ## Evidence
    At most `rare` of the measured steps are outliers (beyond the median by half of it and by five standard
    deviations), and what they take beyond the median is at least `threshold` of the mean step. Their causes stand
    in the record; where they explain less than half, it is a note. It gives way to the rule of a cause that
    speaks for itself.

    ## Fix
    By the cause that takes most.

    ## Gain
    Of what the outliers take beyond the median, half to all, spread over all steps.

    ## Reference
    Hoefler and Belli, "Scientific Benchmarking of Parallel Computing Systems", 2015, on outliers.
    """

    id = "run/outlier-steps"
    evidence = "training"
    bottleneck = Bottleneck.OTHER
    explained_by = (
        "host/garbage-collection",
        "data/workers-restarted",
        "data/epoch-start",
        "compute/recompiling",
        "run/compile-dominates",
        "run/checkpoint-dominates",
        "run/synchronous-checkpoint",
    )
    per_step = False
    needs_device_times = False
    rare = Threshold(0.05, "share of the measured steps that may be outliers")
    threshold = Threshold(0.05, "share of the mean step that they take beyond the median")

    def check(self, facts: Facts) -> Outcome:
        """Judge what the outliers take, and why."""
        steps = facts.steps
        if steps is None or steps.measured < STEPS_TO_JUDGE or not 0 < steps.outlier_share <= self.rare.value:
            return None
        takes = sum(steps.outlier_ms.values())
        if takes < self.threshold.value * steps.mean_ms or not worth(facts, takes):
            return None
        causes = {cause: took for cause, took in steps.outlier_ms.items() if cause}
        named = sum(causes.values())
        first = max(causes, key=lambda cause: causes[cause], default="")
        summary, code = _CURES.get(
            first,
            ("Run again with the machine to the training alone, and look at the slowest steps in the report.", ""),
        )
        parts = joined(f"{cause} {percent(took / takes)}" for cause, took in causes.items())
        why = f"Beside them stands in the record: {parts} of that time." if causes else "The record shows no cause."
        gain = Gain.of(steps.mean_ms, LEAST * takes, takes) if named >= takes / 2 else None
        return self.finding(
            title=(
                f"{percent(steps.outlier_share)} of the steps take {percent(takes / steps.mean_ms)} of the time beyond "
                f"what a usual step takes, {ms(steps.median_ms)}"
                + (f": {first} is beside most of it" if gain is not None else "")
            ),
            why=why,
            evidence={
                "outlier_share": steps.outlier_share,
                "outlier_ms": takes,
                "median_ms": steps.median_ms,
                "mean_ms": steps.mean_ms,
                **{f"{cause.replace(' ', '_')}_ms": took for cause, took in causes.items()},
            },
            fix=Fix(summary, code),
            gain=gain,
            step_ms=steps.mean_ms,
            severity=severity_of(takes / steps.mean_ms) if gain is not None else Severity.INFO,
        )
