"""memory/evaluation-graph."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.frameworks import with_arguments
from profiler.rules.phrases import counted, percent, place, seconds, size


class EvaluationGraph(Rule):
    """Evaluation keeps what a backward pass would need, and there is none.

    ## Why it is slow
    With gradients switched on every operator notes how to be derived, and keeps its inputs until the output is
    gone: an evaluation then takes as much memory as a training step, with a batch that is often larger, and
    writes down a graph that nobody reads. `model.eval()` does not change that.

    ## Evidence
    The modules that were called in the evaluations ran with gradients switched on, in at least `with_graph` of
    them; no backward pass followed, or they would be training steps. It is a warning where evaluation took at
    least `warn` of the run.

    ## Fix
    `with torch.inference_mode():` around the evaluation; `torch.no_grad()` where its outputs are trained on later.

    ## Gain
    In bytes: the activations of one evaluation batch. Evaluations may get shorter too; that is not promised.

    ## Reference
    PyTorch performance tuning guide, "Disable gradient calculation for validation or inference".
    """

    id = "memory/evaluation-graph"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False
    with_graph = Threshold(0.5, "share of the evaluations that ran with gradients switched on")
    warn = Threshold(0.10, "share of the run in evaluation from which it is a warning")

    def check(self, facts: Facts) -> Outcome:
        """Judge how evaluations ran."""
        span = next((span for span in facts.spans if span.name == "evaluation"), None)
        if facts.steps is None or span is None:
            return None
        if span.with_graph is None:
            return self.abstain("no module's forward was seen in the evaluations")
        if span.with_graph < self.with_graph.value:
            return None
        where = f" at {place(span.site, facts)}" if span.site else ""
        activations = facts.memory.categories_bytes.get("activations")
        kept = (
            f" In a training step what is kept so takes {size(activations)}; for each item it is as much here."
            if activations
            else ""
        )
        which = "every evaluation" if span.with_graph == 1 else f"{percent(span.with_graph)} of the evaluations"
        return self.finding(
            title=f"{which}{where} ran with gradients switched on, and no backward pass followed",
            why=(
                f"{counted(span.count, 'evaluation')} took {seconds(span.total_s)}, {percent(span.share_of_run)} of "
                f"the run. Their forwards kept every intermediate result for a backward pass that never came.{kept}"
            ),
            evidence={
                "with_graph": span.with_graph,
                "evaluations": float(span.count),
                "share_of_run": span.share_of_run,
                **({"activations_bytes": float(activations)} if activations else {}),
            },
            fix=Fix.at(
                span.site,
                "Evaluate in inference mode.",
                with_arguments(
                    "model.eval()\nwith torch.inference_mode():\n    ...  # the evaluation",
                    facts,
                    {"lightning": "Trainer(inference_mode=True)  # the default: look who sets it"},
                ),
            ),
            severity=Severity.WARNING if span.share_of_run >= self.warn.value else Severity.INFO,
        )
