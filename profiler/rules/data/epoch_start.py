"""data/epoch-start."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.data.supply import KEEPS_UP, Supply, caveat, maker, supply_of
from profiler.rules.evidence import worth
from profiler.rules.phrases import counted, ms, percent

LEAST = 0.7  # of the epochs' first waits that goes


class EpochStart(Rule):
    """Each epoch begins with a wait for its first batch.

    ## Why it is slow
    Workers get their first indices when the epoch begins: until one has made a whole batch the loop stands
    still, and nothing is prepared ahead. Short epochs pay for that often, even where workers live on.

    ## Evidence
    Steps in which an epoch began waited longer for their batch than the others, and that takes at least
    `threshold` of the mean step, over at least `epochs` epochs; the time to start workers is not counted
    (`data/workers-restarted`). The workers keep up otherwise: batches would arrive within 70 % of the step. It
    abstains when the workers were not observed.

    ## Fix
    Let the sampler run on over several epochs, so that the next epoch's batches are prepared while this one ends.

    ## Gain
    70 % to all of the epochs' first waits, beyond what other steps wait, spread over all steps.

    ## Reference
    torch.utils.data, DataLoader, "prefetch_factor" and "persistent_workers"; RandomSampler, "num_samples".
    """

    id = "data/epoch-start"
    evidence = "training"
    bottleneck = Bottleneck.DATA_LOADING
    explained_by = ("data/workers-restarted",)
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent on the epochs' first batches")
    epochs = Threshold(3, "epochs that must have begun in the measured steps")

    def check(self, facts: Facts) -> Outcome:
        """Judge what the epochs' first batches cost."""
        steps = facts.steps
        if steps is None or steps.epoch_start_ms is None or steps.epoch_starts < self.epochs.value:
            return None
        waits_ms = steps.epoch_start_ms * steps.epoch_starts / steps.measured
        if waits_ms < self.threshold.value * steps.mean_ms or not worth(facts, waits_ms):
            return None
        supply = supply_of(facts)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        if supply.processes == 0:
            return None
        if supply.arrival_ms(supply.batch_ms, supply.processes) >= KEEPS_UP * supply.step_ms:
            return None
        length = steps.measured / steps.epoch_starts
        return self.finding(
            title=(
                f"each epoch of about {length:.0f} steps begins with a wait of {ms(steps.epoch_start_ms)}: "
                f"{percent(waits_ms / steps.mean_ms)} of the mean step of {ms(steps.mean_ms)}"
            ),
            why=(
                f"{counted(steps.epoch_starts, 'epoch')} began in the measured steps. A batch takes "
                f"{ms(supply.batch_ms)} to make, and {maker(supply)} begin with the first one when the epoch "
                "begins; in all other steps they keep up." + caveat(facts)
            ),
            evidence={
                "epoch_starts": float(steps.epoch_starts),
                "epoch_start_ms": steps.epoch_start_ms,
                "share": waits_ms / steps.mean_ms,
                "batch_ms": supply.batch_ms,
                "step_ms": steps.mean_ms,
            },
            fix=Fix.at(supply.site, "Let one pass of the loader go over several epochs.", _CODE),
            gain=Gain.of(steps.mean_ms, LEAST * waits_ms, waits_ms),
            step_ms=steps.mean_ms,
        )


_CODE = """\
class Epochs(torch.utils.data.Sampler):
    \"\"\"One epoch's order after the other, without an end between them.\"\"\"

    def __init__(self, dataset, epochs):
        self.dataset, self.epochs = dataset, epochs

    def __len__(self):
        return self.epochs * len(self.dataset)

    def __iter__(self):
        for _ in range(self.epochs):
            yield from torch.randperm(len(self.dataset)).tolist()

loader = DataLoader(dataset, sampler=Epochs(dataset, epochs), ...)  # instead of shuffle=True
for step, batch in enumerate(loader):  # one loop over all epochs
    ...
    if (step + 1) % steps_per_epoch == 0:
        ...  # what an epoch's end does"""
