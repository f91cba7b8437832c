"""Whether a training used an accelerator of which its trace holds no event.

In:  a `Recording`, of one process. Out: yes or no.
"""

from __future__ import annotations

import re

import numpy as np

from profiler.record.trace.recording import Recording

_ASKS_FOR_WORK = re.compile(r"launch|memcpy|memset|enqueue", re.IGNORECASE)  # any process may synchronize or count
_OF_DEVICE = re.compile(  # but for questions that are asked on the CPU as well
    r"^(nccl|rccl|xccl|hccl):|(?<!use_)cudnn(?!_is_acceptable)|miopen|^aten::(_pin_memory|convolution_overrideable)$|_(cuda|hip|xpu)(_|$)",
    re.IGNORECASE,
)
_OF_CPU = re.compile(r"mkldnn|_for_cpu$")


def used_device(recording: Recording) -> bool:
    """Whether an accelerator was in use: work was asked for, operators ran that only one has, or the trace names one.

    A trace also names the accelerators of a machine that a training left alone: operators of the CPU alone outweigh
    that.
    """
    names = recording.names
    if any(_ASKS_FOR_WORK.search(names[number]) for number in np.unique(recording.calls.name).tolist()):
        return True
    operators = [names[number] for number in np.unique(recording.operators.name).tolist()]
    if any(_OF_DEVICE.search(name) for name in operators):
        return True
    return bool(recording.devices) and not any(_OF_CPU.search(name) for name in operators)
