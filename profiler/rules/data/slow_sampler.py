"""data/slow-sampler."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.merged_lines import by_line
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.data.supply import KEEPS_UP, Supply, caveat, supply_of
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent, place

LEAST = 0.7  # of the line's time that goes


class SlowSampler(Rule):
    """The order of the items is worked out on the training thread, batch by batch.

    ## Why it is slow
    Workers make items, but which ones is decided in the training process: a sampler that sorts, weighs or looks
    things up in Python for each batch runs while the loop waits for data, however many workers there are.

    ## Evidence
    The loader has workers, and the sampler of stacks found the training thread within `data_wait` at lines of
    the user's other than the one that waits, for at least `threshold` of the step and in at least `samples`
    samples. With `num_workers=0` such lines may be the data set's, and nothing is said.

    ## Fix
    Work the order out once for an epoch, with tensors, and yield slices of it.

    ## Gain
    At least 70 % of these lines' time. At most the whole wait, where the workers would keep up with the rest of the
    step: they are told late what to make.

    ## Reference
    torch.utils.data, "Data Loading Order and Sampler".
    """

    id = "data/slow-sampler"
    evidence = "training"
    bottleneck = Bottleneck.DATA_PREPROCESSING
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step at the sampler's lines")
    samples = Threshold(8, "samples of such lines below which nothing is said")

    def check(self, facts: Facts) -> Outcome:
        """Judge what the sampler's lines cost."""
        stage = facts.stages.get("data_wait")
        if stage is None or stage.share < self.threshold.value or stage.call is None:
            return None
        supply = supply_of(facts)
        if not isinstance(supply, Supply) or supply.processes == 0:
            return self.abstain(supply) if isinstance(supply, str) else None
        call = (stage.call.file, stage.call.line)
        lines = by_line(line for line in stage.lines if (line.site.file, line.site.line) != call)
        takes_ms = sum(line.ms_per_step for line in lines)
        if takes_ms < self.threshold.value * supply.step_ms or not worth(facts, takes_ms):
            return None
        if sum(line.samples for line in lines) < self.samples.value:
            return self.abstain("too few samples of the loader's sampler were taken")
        without_ms = supply.step_ms - takes_ms
        keeps_up = supply.arrival_ms(supply.batch_ms, supply.processes) < KEEPS_UP * without_ms
        most_ms = max(takes_ms, supply.wait_ms) if keeps_up else takes_ms
        first = max(lines, key=lambda line: line.ms_per_step)
        source = f": `{first.source.strip()}`" if first.source else ""
        return self.finding(
            title=(
                f"{percent(takes_ms / supply.step_ms)} of each {ms(supply.step_ms)} step works out which items come "
                f"next, at {place(first.site, facts)}{source}"
            ),
            why=(
                f"While the loop waits for data the training thread itself is in {first.site.function}() for "
                f"{ms(takes_ms)} a step: workers make the items, but their order is made here." + caveat(facts)
            ),
            evidence={
                "sampler_ms": takes_ms,
                "step_ms": supply.step_ms,
                "samples": float(sum(line.samples for line in lines)),
                "num_workers": float(supply.processes),
            },
            fix=Fix.at(first.site, "Work the order out once for each epoch, with tensors.", _CODE),
            gain=Gain.of(supply.step_ms, LEAST * takes_ms, most_ms),
            step_ms=supply.step_ms,
        )


_CODE = """\
class Batches(torch.utils.data.Sampler):
    def __iter__(self):
        order = torch.multinomial(self.weights, len(self.weights))  # or argsort, randperm: once, with tensors
        yield from order.view(-1, self.batch_size).tolist()

DataLoader(dataset, batch_sampler=Batches(...), num_workers=...)"""
