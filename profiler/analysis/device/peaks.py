"""What a device can do at most, by its datasheet.

In:  the name that its driver gives it, and its memory. The figures are those of the planner's catalogue of devices.
Out: `Peaks`; None where the name does not tell which device it is.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from importlib import import_module
from importlib.resources import files
from typing import Any

from profiler.analysis.roofline_facts import Peaks

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
_SAME_MEMORY = 0.08  # by which a driver's figure differs from the datasheet's at most
_VARIANTS = frozenset({"pcie", "laptop", "mobile", "maxq", "nvl", "ti", "super", "ada"})  # devices of their own


def peaks_of(name: str | None, memory_bytes: int | None) -> Peaks | None:
    """The device's peaks. Devices of one name are told apart by their memory."""
    if not name:
        return None
    words = _words(name)
    said = re.search(r"(\d+) ?gb\b", name.lower())
    memory = [size for size in (memory_bytes, int(said[1]) * 10**9 if said else None) if size]
    variants = {word for word in _VARIANTS if word in words}
    fitting = []
    for entry in _devices():
        told = [alias for alias in entry["words"] if alias <= words and variants <= alias]
        if told and all(_has(entry, size) for size in memory):
            fitting.append((max(map(len, told)), entry))
    most = max((told for told, _ in fitting), default=0)
    chosen = [entry for told, entry in fitting if told == most]
    if len({(tuple(sorted(entry["peak"].items())), entry["bandwidth_gbs"]) for entry in chosen}) != 1:
        return None
    flops = {str(form): float(tera) * 1e12 for form, tera in chosen[0]["peak"].items()}
    return Peaks(f"datasheet of {chosen[0]['name']}", flops, float(chosen[0]["bandwidth_gbs"]) * 1e9)


@lru_cache(maxsize=1)
def _devices() -> tuple[dict[str, Any], ...]:
    """With the words of each name, but for its memory."""
    text = (files("profiler") / "planner" / "catalogues" / "devices.toml").read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = tomllib.loads(text)["devices"]
    found = []
    for key, entry in entries.items():
        memory = {f"{entry['memory_gb']}gb", f"{entry['memory_gb']}"}
        found.append({**entry, "words": [_words(alias) - memory for alias in (key, *entry.get("aliases", ()))]})
    return tuple(found)


def _words(name: str) -> frozenset[str]:
    lower = name.lower().replace("max-q", "maxq")
    return frozenset(re.findall(r"[a-z0-9]+", lower)) - {"nvidia", "amd", "tesla", "geforce", "instinct", "gpu"}


def _has(entry: dict[str, Any], memory_bytes: int) -> bool:
    datasheet = float(entry["memory_gb"])
    sizes = (datasheet * 1e9, datasheet * 2**30, float(entry.get("reported_gib", 0)) * 2**30)
    return any(abs(memory_bytes / size - 1) <= _SAME_MEMORY for size in sizes if size)
