"""The labels of time: the parts of stages, and the spans that lie outside of steps.

A label below `OTHER` is a part of a stage, `OTHER` is a step's rest, labels from `FIRST_USER` are the rest under
a name of the user's, labels from `FIRST_SPAN` are not part of a step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from profiler.record.vocabulary import SPANS, STAGE_ORDER, DataWait, Forward, Name, Optimizer

PARTS: tuple[tuple[str, str], ...] = (
    ("data_wait", "next"),
    ("data_wait", "iter"),
    ("host_to_device", ""),
    ("forward", "module"),
    ("forward", "loss"),
    ("backward", ""),
    ("optimizer", "step"),
    ("optimizer", "zero_grad"),
    ("optimizer", "clip"),
    ("optimizer", "scaler"),
    ("optimizer", "scheduler"),
    ("communication", ""),
    ("other", ""),
)
(
    NEXT,
    ITER,
    HOST_TO_DEVICE,
    MODULE,
    LOSS,
    BACKWARD,
    STEP,
    ZERO_GRAD,
    CLIP,
    SCALER,
    SCHEDULER,
    COMMUNICATION,
    OTHER,
) = range(13)
FIRST_USER = len(PARTS)
USER_PARTS = 16  # named stages of the user's that get a column of their own; more of them count as plain other
LABELS = FIRST_USER + USER_PARTS
FIRST_SPAN = 64
SPAN_LABELS: dict[str, int] = {name: FIRST_SPAN + number for number, name in enumerate(SPANS.values())}
EVALUATION = SPAN_LABELS["evaluation"]
CHECKPOINT = SPAN_LABELS["checkpoint"]
COMPILE = SPAN_LABELS["compile"]
INSTRUMENT = SPAN_LABELS["instrument"]
OUTSIDE = FIRST_SPAN + len(SPANS)

STAGE_OF: npt.NDArray[np.int64] = np.array(
    [STAGE_ORDER.index(stage) for stage, _ in PARTS] + [STAGE_ORDER.index("other")] * USER_PARTS
)


def _base() -> npt.NDArray[np.int16]:
    """The label of an interval by name and detail, before anything around it is looked at."""
    table = np.full((256, 256), OTHER, dtype=np.int16)
    table[Name.DATA_WAIT] = NEXT
    table[Name.DATA_WAIT, DataWait.ITER] = ITER
    table[Name.HOST_TO_DEVICE] = HOST_TO_DEVICE
    table[Name.FORWARD] = MODULE
    table[Name.FORWARD, Forward.LOSS] = LOSS
    table[Name.BACKWARD] = BACKWARD
    table[Name.OPTIMIZER] = STEP
    table[Name.OPTIMIZER, Optimizer.ZERO_GRAD] = ZERO_GRAD
    table[Name.OPTIMIZER, Optimizer.CLIP] = CLIP
    table[Name.OPTIMIZER, Optimizer.SCALER] = SCALER
    table[Name.OPTIMIZER, Optimizer.SCHEDULER] = SCHEDULER
    table[Name.COMMUNICATION] = COMMUNICATION
    for word, name in SPANS.items():
        table[word] = SPAN_LABELS[name]
    return table


BASE = _base()


def label_of_name(name: str) -> int | None:
    """The label of a stage or span by its name; None where the name is the user's own."""
    if name in SPAN_LABELS:
        return SPAN_LABELS[name]
    if name == "optimizer":
        return STEP
    return next((number for number, (stage, _) in enumerate(PARTS) if stage == name), None)


def labels_of(stage: str) -> list[int]:
    """All labels that belong to a stage."""
    number = STAGE_ORDER.index(stage)
    return [label for label, of_stage in enumerate(STAGE_OF.tolist()) if of_stage == number]
