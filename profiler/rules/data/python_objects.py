"""data/python-objects."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.data.supply import Supply, caveat, maker, supply_of
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, number, percent

LEAST = 0.7  # of the unpickling that goes
MOST = 2.0  # with the way of the bytes through a pipe, which takes about as long


class PythonObjects(Rule):
    """Batches of Python objects are pickled by the workers and unpickled by the loop.

    ## Why it is slow
    A tensor comes from a worker as a handle to shared memory. Lists of numbers and text, dicts and the user's own
    objects come as pickled bytes, and the training thread makes every single object anew while it waits.

    ## Evidence
    The first batches held at least `objects` leaves that are no arrays; to unpickle them, timed once in the worker,
    takes at least `threshold` of the step; and the loop waits for data that long. It abstains when the batches
    were not looked at or the workers were not observed.

    ## Fix
    Turn them into tensors in `collate_fn`: numbers into one tensor, text into bytes with offsets. Leave out what
    the loop does not read.

    ## Gain
    At least 70 % of the time to unpickle them. At most twice that time, and no more than the wait: the bytes come
    through a pipe, which the training thread reads as well.

    ## Reference
    torch.utils.data, "Multi-process data loading"; torch.multiprocessing, "Sharing CUDA tensors" and "Sharing
    strategies".
    """

    id = "data/python-objects"
    evidence = "training"
    bottleneck = Bottleneck.DATA_PREPROCESSING
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent unpickling batches")
    objects = Threshold(500, "objects in a batch that are no arrays")

    def check(self, facts: Facts) -> Outcome:
        """Judge what unpickling costs."""
        stage = facts.stages.get("data_wait")
        if stage is None or stage.share < self.threshold.value:
            return None
        supply = supply_of(facts)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        contents = facts.workers.contents if facts.workers else None
        if supply.processes == 0:
            return None
        if contents is None:
            return self.abstain("no batch of the workers was looked at")
        if contents.objects < self.objects.value or contents.unpickle_ms is None:
            return None
        takes_ms = min(supply.batches * contents.unpickle_ms, supply.wait_ms)
        if takes_ms < self.threshold.value * supply.step_ms or not worth(facts, takes_ms):
            return None
        return self.finding(
            title=(
                f"{percent(takes_ms / supply.step_ms)} of each {ms(supply.step_ms)} step unpickles batches of "
                f"{number(contents.objects)} Python objects"
            ),
            why=(
                f"A batch from {maker(supply)} holds {number(contents.objects)} numbers, texts or other objects "
                f"beside {number(contents.arrays)} arrays. The training thread makes them anew from pickled "
                f"bytes, which takes {ms(takes_ms)} a step." + caveat(facts)
            ),
            evidence={
                "unpickle_ms": takes_ms,
                "objects": contents.objects,
                "arrays": contents.arrays,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
                "pickled_bytes": contents.pickled_bytes or 0.0,
            },
            fix=Fix.at(supply.site, "Turn the objects into tensors in collate_fn.", _CODE),
            gain=Gain.of(supply.step_ms, LEAST * takes_ms, min(MOST * takes_ms, supply.wait_ms)),
            step_ms=supply.step_ms,
        )


_CODE = """\
def collate(items):
    inputs, numbers, texts = zip(*items)
    encoded = [text.encode() for text in texts]
    return (
        torch.stack(inputs),
        torch.tensor(numbers),  # one tensor, not a list
        torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8),  # and only if the loop reads it
        torch.tensor([0, *map(len, encoded)]).cumsum(0),  # where each text begins
    )"""
