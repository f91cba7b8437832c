"""memory/kept-graph."""

from __future__ import annotations

from profiler.analysis.facts import Facts, KeptGraph
from profiler.rules.base import Bottleneck, Finding, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.memory.growth import Growth
from profiler.rules.phrases import number, place, size


class KeptGraphs(Rule):
    """Graphs of past steps are kept by a list or by a sum of losses.

    ## Why it is slow
    A tensor that came out of the model points to the operators that made it, and they to what they kept for
    backward. Whoever keeps the tensor keeps all of that: memory grows with every step until it is gone. A sum of
    losses is a graph that gets longer with every step as well.

    ## Evidence
    Memory had grown since the training's first steps, and two looks at Python's objects, some steps apart, found a
    list, dict or deque whose newest tensor still has its `grad_fn`, or a sum, that held at least `graphs` graphs
    and had become longer. Where its name and one line that adds to it were found, that line is named. It is
    critical where memory is about to run out (`memory/growth`), a warning otherwise.

    ## Fix
    `loss.item()`, or `.detach()` where a tensor is wanted, of all that outlives the step.

    ## Gain
    In bytes: the kept tensors and their graphs. Steps themselves may not get shorter.

    ## Reference
    PyTorch FAQ, "My model reports out of memory": don't accumulate history across your training loop.
    """

    id = "memory/kept-graph"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    per_step = False
    needs_device_times = False
    graphs = Threshold(16, "graphs kept at the last look below which nothing is said")

    def check(self, facts: Facts) -> Outcome:
        """Name what keeps graphs."""
        found = [self._finding(facts, kept) for kept in facts.memory.kept_graphs if kept.count >= self.graphs.value]
        return found or None

    def _finding(self, facts: Facts, kept: KeptGraph) -> Finding:
        grows = Growth().check(facts)
        severity = grows.severity if isinstance(grows, Finding) else Severity.WARNING
        named = f"`{kept.name}`" if kept.name else ("a sum of losses" if kept.what == "sum" else "a list")
        where = f" at {place(kept.site, facts)}" if kept.site else ""
        holds = "added up" if kept.what == "sum" else "held"
        each = f" The tensors alone take {size(kept.bytes_each)} each, what made them more." if kept.bytes_each else ""
        unknown = "" if kept.site else " Which line adds to it could not be told: look for what outlives the step."
        ends = f" {grows.title[:1].upper()}{grows.title[1:]}." if isinstance(grows, Finding) else ""
        name = kept.name or ("total" if kept.what == "sum" else "history")
        return self.finding(
            title=f"{named} keeps the graphs of past steps alive{where}: {number(kept.count)} of them when last seen",
            why=(
                f"It {holds} {number(kept.count)} tensors that still have their grad_fn, and became longer from look "
                f"to look.{each}{ends}{unknown}"
            ),
            evidence={
                "graphs": float(kept.count),
                **({"bytes_each": float(kept.bytes_each)} if kept.bytes_each else {}),
                **({"growth_bytes_per_step": facts.memory.growth_bytes_per_step or 0.0} if ends else {}),
            },
            fix=Fix.at(
                kept.site,
                "Keep a number, or a tensor without its graph.",
                f"{name} += loss.item()  # or: += loss.detach()"
                if kept.what == "sum"
                else f"{name}.append(loss.item())  # or: append(output.detach().cpu())",
            ),
            severity=severity,
        )
