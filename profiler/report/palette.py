"""The colours of stages, spans and memory: Okabe and Ito's set, which colour-blind people can tell apart.

Each colour also has a hatch (`report.css`) and stands beside its name, so that none is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from profiler.record.vocabulary import STAGE_ORDER

DARK_INK, LIGHT_INK = "#16191d", "#ffffff"
_STAGES = {
    "data_wait": "#d55e00",
    "host_to_device": "#f0e442",
    "forward": "#56b4e9",
    "backward": "#0072b2",
    "optimizer": "#009e73",
    "communication": "#cc79a7",
    "other": "#c2c7cf",
}
_USER_STAGES = ("#e69f00", "#7b6fb0", "#8c564b", "#b5c334")
SPANS = {
    "startup": "#9aa1ab",
    "compile": "#cc79a7",
    "evaluation": "#56b4e9",
    "checkpoint": "#e69f00",
    "instrument": "#d55e00",
}
CATEGORIES = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#cc79a7", "#9aa1ab")
HELD = {  # on a device, by what it was for
    "parameters": "#0072b2",
    "gradients": "#56b4e9",
    "optimizer": "#009e73",
    "activations": "#e69f00",
    "retained": "#d55e00",
    "loaded": "#8c564b",
    "communication": "#cc79a7",
    "workspace": "#f0e442",
    "other": "#c2c7cf",
    "before_recording": "#9aa1ab",
    "unknown": "#7b6fb0",
}
DEVICE = {  # what the device's time went to; idle time by its cause
    "kernels": "#0072b2",
    "collectives": "#cc79a7",
    "copies": "#56b4e9",
    "host": "#e69f00",
    "sync": "#f0e442",
    "data_wait": "#d55e00",
    "copy": "#b5c334",
    "communication": "#7b6fb0",
    "unknown": "#c2c7cf",
}
HOST = {  # what the host's part of a step went to, beside the device's: tints of DEVICE["host"]
    "host_to_device": "#f7dc6f",
    "forward": "#f5c869",
    "backward": "#e69f00",
    "optimizer": "#b98a2c",
    "communication": "#c9886b",
    "other": "#f6e3c0",
}
FAMILIES = {
    "gemm": "#0072b2",
    "attention": "#7b6fb0",
    "convolution": "#56b4e9",
    "normalization": "#009e73",
    "elementwise": "#e69f00",
    "reduction": "#f0e442",
    "embedding": "#8c564b",
    "optimizer": "#b5c334",
    "copy": "#d55e00",
    "collective": "#cc79a7",
    "other": "#c2c7cf",
}
WORKER_PARTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")


def in_order(names: Iterable[str]) -> list[str]:
    """Stages in the order in which a step goes through them; the user's own before `other`."""
    rank = {name: index for index, name in enumerate(STAGE_ORDER)}
    before_other = len(STAGE_ORDER) - 1.5
    return sorted(names, key=lambda name: rank.get(name, before_other))


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each stage of a run."""
    ordered = in_order(names)
    own = [name for name in ordered if name not in _STAGES]
    return {name: _STAGES.get(name) or _USER_STAGES[own.index(name) % len(_USER_STAGES)] for name in ordered}


def hatch(name: str) -> int:
    """The number of a stage's hatch in the style sheet."""
    return STAGE_ORDER.index(name) if name in STAGE_ORDER else len(STAGE_ORDER)


def ink(colour: str) -> str:
    """Dark or light text, whichever has more contrast on the colour (WCAG's relative luminance)."""
    channels = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return DARK_INK if luminance > 0.19 else LIGHT_INK
