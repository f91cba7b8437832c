"""data/workers-restarted."""

from __future__ import annotations

import math

from profiler.analysis.facts import Facts, LoaderSettings
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold, severity_of
from profiler.rules.data.supply import KEEPS_UP, Supply, caveat, supply_of
from profiler.rules.evidence import step_ms, worth
from profiler.rules.phrases import counted, ms, percent

STAYS = 0.2  # of the start's time: waking workers that live took 0.10 to 0.13 of it (2 cores, torch 2.13)
OF_FIRST = 0.5  # of the wait for an epoch's first batch: what goes too, at the least
OF_WAIT = 0.9  # of the loop's other wait: what may go too, for new workers make their first batches slowly


class WorkersRestarted(Rule):
    """The DataLoader starts its workers again in every epoch.

    ## Why it is slow
    Without `persistent_workers=True` the workers end with the epoch. The next one starts new processes, and
    the loop stands still until they run. Short epochs pay for that often.

    ## Evidence
    The DataLoader has workers and no `persistent_workers=True`, and making its iterator takes above
    `threshold` of the mean step after warm-up. It abstains when the construction of the DataLoader was not
    observed, and is silent where the run did not reach a second epoch: a first start can't be saved.

    ## Fix
    `persistent_workers=True`, on a DataLoader that is made once. `num_workers=0` where batches are so cheap
    that the training thread makes them in less time than the start takes.

    ## Gain
    At least 80 % of the time to make the iterator: waking living workers took 10 % to 13 % of starting
    them (measured, 2 workers, 2 cores, torch 2.13); and half of the wait for an epoch's first batch. At most all
    of it and 90 % of the other wait, where the workers keep up otherwise: it falls on an epoch's first batches.

    ## Reference
    torch.utils.data, DataLoader, "persistent_workers".
    """

    id = "data/workers-restarted"
    evidence = "training"
    arguments = {"transformers": "TrainingArguments(dataloader_persistent_workers=True)"}
    bottleneck = Bottleneck.DATA_LOADING
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent making the DataLoader's iterator")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether starting workers holds the loop back."""
        stage, whole = facts.stages.get("data_wait"), step_ms(facts)
        iter_ms = stage.parts_ms.get("iter", 0.0) if stage else 0.0
        if whole <= 0 or iter_ms < self.threshold.value * whole:
            return None
        loader = facts.settings.training_loader
        if loader is None:
            return self.abstain("the construction of the training's DataLoader was not observed")
        made_anew = _made_anew(facts, loader)
        if loader.num_workers == 0 or loader.persistent_workers:
            return None
        epoch_steps = _epoch_steps(facts, loader)
        if epoch_steps is not None and facts.steps is not None and facts.steps.count <= epoch_steps:
            return None
        supply = supply_of(facts)
        keeps_up = (
            isinstance(supply, Supply)
            and supply.processes > 0
            and supply.arrival_ms(supply.batch_ms, supply.processes) < KEEPS_UP * supply.step_ms
        )
        other_ms = supply.wait_ms if isinstance(supply, Supply) and keeps_up else 0.0
        first_ms = min(other_ms, _first_wait_ms(facts, epoch_steps))
        if not worth(facts, (1 - STAYS) * iter_ms):
            return None
        workers = counted(loader.num_workers, "worker")
        epoch = f" An epoch has about {epoch_steps:.0f} steps." if epoch_steps else ""
        cheap = isinstance(supply, Supply) and supply.batches * supply.batch_ms < (1 - STAYS) * iter_ms
        return self.finding(
            title=(
                f"{percent(iter_ms / whole)} of each {ms(whole)} step goes into starting {workers} again in every epoch"
            ),
            why=(
                f"Starting the workers takes {ms(iter_ms)} of each step, spread over the epoch's steps, and the "
                f"loop stands still meanwhile.{epoch} " + _cause(made_anew) + caveat(facts)
            ),
            evidence={
                "iter_ms": iter_ms,
                "iter_share": iter_ms / whole,
                "step_ms": whole,
                "num_workers": float(loader.num_workers),
            },
            fix=Fix.at(loader.site, _summary(made_anew, cheap), _code(loader, cheap)),
            gain=Gain.of(whole, (1 - STAYS) * iter_ms + OF_FIRST * first_ms, iter_ms + OF_WAIT * other_ms),
            step_ms=whole,
            severity=severity_of((1 - STAYS) * iter_ms / whole),
        )


def _made_anew(facts: Facts, loader: LoaderSettings) -> bool:
    """Whether the same line made several of the training's loaders."""
    same = [other for other in facts.settings.loaders if other.trains and other.site == loader.site]
    return loader.site is not None and len(same) > 1


def _epoch_steps(facts: Facts, loader: LoaderSettings) -> float | None:
    """Steps of an epoch; None where the data set's length is not known."""
    if not loader.length or not loader.batch_size or facts.steps is None:
        return None
    parts = facts.run.ranks if loader.extra.get("sampler") == "DistributedSampler" else 1
    return math.ceil(loader.length / parts / loader.batch_size) / (facts.steps.batches or 1.0)


def _first_wait_ms(facts: Facts, epoch_steps: float | None) -> float:
    """The wait for an epoch's first batch, beyond that for others, spread over the epoch's steps."""
    if facts.steps is None or facts.steps.epoch_start_ms is None or not epoch_steps:
        return 0.0
    return facts.steps.epoch_start_ms / epoch_steps


def _cause(made_anew: bool) -> str:
    if made_anew:
        return "Several of the training's loaders are made at this line, and each starts workers of its own."
    return "Without persistent_workers=True they end with their epoch."


def _summary(made_anew: bool, cheap: bool) -> str:
    once = "If each epoch makes a DataLoader, make one before the epochs instead, and keep" if made_anew else "Keep"
    return f"{once} its workers alive between epochs" + (", or do without them: batches are cheap." if cheap else ".")


def _code(loader: LoaderSettings, cheap: bool) -> str:
    code = f"DataLoader(..., num_workers={loader.num_workers}, persistent_workers=True)  # the other arguments stay"
    return code + ("\n# or, since a batch is cheap to make:\nDataLoader(..., num_workers=0)" if cheap else "")
