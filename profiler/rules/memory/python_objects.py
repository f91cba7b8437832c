"""memory/python-objects."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Finding, Fix, Outcome, Rule, Threshold
from profiler.rules.memory.growth import Growth
from profiler.rules.phrases import number, size

LEAST_BYTES = 24  # a number in a list: what Python's allocator gives for it, without the list's own place


class PythonObjects(Rule):
    """Python objects pile up with every step.

    ## Why it is slow
    Records, lists of numbers and strings that are kept from each step take tens of bytes for each number, and the
    garbage collector walks through all of them again and again.

    ## Evidence
    Memory grows with the steps (`memory/growth`), and so did the number of blocks that Python's allocator has
    given out, from reading to reading: by at least `blocks` a step, and by so many that they, at 24 bytes each, are
    at least `of_growth` of what the process grew by. It abstains where fewer than four readings were taken, which
    come once a second.

    ## Fix
    Write records out and forget them, keep them in arrays, or keep the last few (`collections.deque(maxlen=…)`).

    ## Gain
    In bytes: the growth per step, times the steps that are left.

    ## Reference
    Python documentation, sys.getallocatedblocks; collections.deque.
    """

    id = "memory/python-objects"
    evidence = "training"
    bottleneck = Bottleneck.MEMORY
    explained_by = ("memory/kept-graph",)
    per_step = False
    needs_device_times = False
    blocks = Threshold(100, "blocks of Python's allocator by which a step must grow")
    of_growth = Threshold(0.3, "share of the process's growth that they must account for")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether Python's objects are what grows."""
        grows, memory = Growth().check(facts), facts.memory
        if not isinstance(grows, Finding) or memory.growth_bytes_per_step is None:
            return None
        blocks = memory.python_blocks_per_step
        if blocks is None or blocks < self.blocks.value:
            return None
        known_bytes = blocks * LEAST_BYTES
        if known_bytes < self.of_growth.value * memory.growth_bytes_per_step:
            return None
        return self.finding(
            title=f"each step leaves {number(blocks)} Python objects behind, and {grows.title}",
            why=(
                f"Python's allocator gave out {number(blocks)} more blocks a step than it got back, at least "
                f"{size(known_bytes)} of the {size(memory.growth_bytes_per_step)} by which memory grew. They are "
                "records, numbers or text that something keeps, not tensors. Which line keeps them is not recorded."
            ),
            evidence={
                "blocks_per_step": blocks,
                "growth_bytes_per_step": memory.growth_bytes_per_step,
                **{name: value for name, value in grows.evidence.items() if name == "steps_left"},
            },
            fix=Fix("Write records out as they come, or keep the last few.", _CODE),
            severity=grows.severity,
        )


_CODE = """\
with open("records.jsonl", "a") as file:  # once, before the loop
    ...
    file.write(json.dumps(record) + "\\n")  # every 50th step: not history.append(record)

history = collections.deque(maxlen=1000)  # or only the last ones
losses = np.empty(total_steps, np.float32)  # or numbers in an array: 4 bytes each"""
