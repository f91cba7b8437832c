"""straggler/data."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.analysis.site import Site
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Threshold
from profiler.rules.straggler.late import Late, at_line, late


class LateByData(Rule):
    """One rank waits for its data, and all others wait for that rank.

    ## Why it is slow
    A collective ends for nobody before the last rank has come. What one rank waits for its batch, every other rank
    waits in communication: it looks like a slow network, and is a slow disk, or an uneven split of the data.

    ## Evidence
    One rank comes last in the steps to which most of the waiting is due, the others wait for it for at least
    `threshold` of the step, and what it does longer than the typical other rank is to wait for data. Where workers were
    observed, the part of a batch (loading, preprocessing, collating) that takes it longer is named. Abstains where
    ranks or their clocks could not be compared.

    ## Fix
    Look at that rank's data: the shard it reads, the disk or host it reads from, workers and cores that it has.

    ## Gain
    What the others wait for it, at most what its wait is longer than theirs; 60 % to 100 % of it.

    ## Reference
    torch.utils.data.distributed.DistributedSampler; Understanding Stragglers in Large Model Training (Lin
    et al., 2025).
    """

    id = "straggler/data"
    evidence = "training"
    bottleneck = Bottleneck.STRAGGLER
    threshold = Threshold(0.05, "share of the step that the other ranks wait")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether a rank is late by its data."""
        found = late(facts, "data_wait", threshold=self.threshold.value)
        if not isinstance(found, Late):
            return self.abstain(found) if found else None
        part = found.rank.worker_part
        what = {
            "load": " Of its batches it is the loading, from storage or network, that takes longer.",
            "preprocess": " Of its batches it is the computing in the data set's items that takes longer.",
            "collate": " Of its batches it is the collating that takes longer.",
        }.get(part or "", "")
        return self.finding(
            title=found.title,
            why=f"{found.steadiness}{what}{at_line(found)}",
            evidence=found.evidence,
            fix=Fix.at(
                _site(found, facts),
                f"Find out why rank {found.rank.rank} gets its batches later: its shard, its storage, its workers.",
                _CODE,
            ),
            gain=found.gain,
            step_ms=found.step_ms,
        )


def _site(found: Late, facts: Facts) -> Site | None:
    if found.rank.line is not None:
        return found.rank.line.site
    loader = facts.settings.training_loader
    return loader.site if loader else None


_CODE = """\
# every rank the same number of items, drawn from all of the data
sampler = DistributedSampler(dataset, shuffle=True, drop_last=True)
loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=4)"""
