"""comm/find-unused-parameters."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.comm.exposed import reduced, wrapped_at
from profiler.rules.evidence import step_ms


class FindUnusedParameters(Rule):
    """Each step searches its graph for unused parameters, and there are none.

    ## Why it is slow
    With `find_unused_parameters=True` the reducer walks the whole autograd graph after each forward, and the ranks
    exchange one more message, a map of which parameters were used, before backward can end.

    ## Evidence
    The option is on, `backwards` reductions were made, and in the reducer's own account no parameter was unused.
    What it costs was not measured, so no gain is promised.

    ## Fix
    Drop the option; where parameters are unused in every step alike, `static_graph=True` finds that out once.

    ## Gain
    Not promised: the walk costs host time that grows with the graph.

    ## Reference
    torch.nn.parallel.DistributedDataParallel, "find_unused_parameters".
    """

    id = "comm/find-unused-parameters"
    bottleneck = Bottleneck.COMMUNICATION
    needs_device_times = False
    backwards = Threshold(20, "reductions from which it is believed that nothing is unused")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the search finds anything."""
        reduction = reduced(facts)
        if reduction is None or not reduction.find_unused_parameters or reduction.static_graph:
            return None
        if reduction.synced < self.backwards.value or reduction.unused_parameter_bytes:
            return None
        return self.finding(
            title="Every step searches for unused parameters, and all are used",
            why=(
                f"find_unused_parameters is on; in {reduction.synced} reductions no parameter was without a gradient. "
                "The graph is walked and a map of used parameters exchanged in each of them."
            ),
            evidence={"reductions": float(reduction.synced), "step_ms": step_ms(facts)},
            fix=Fix.at(
                wrapped_at(facts), "Drop find_unused_parameters=True.", "model = DistributedDataParallel(model)"
            ),
            severity=Severity.INFO,
        )
