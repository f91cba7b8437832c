"""A snapshot as JSON, schema 1: what `prof memory --json` prints.

In:  an `Explained` snapshot.
Out: plain data.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from profiler.report.snapshot.pipeline import Explained
from profiler.report.snapshot.wording import headline

SCHEMA_VERSION = 1


def as_json(explained: Explained) -> dict[str, Any]:
    """All that is known of a snapshot; sizes in bytes, times in seconds."""
    found = asdict(explained.snapshot)
    for device in found["devices"]:
        device["timeline"] = device.pop("line")
        for failed, seen in zip(device["ooms"], _ooms(explained, device["device"]), strict=True):
            failed["fragmented"] = seen
    return {
        "schema_version": SCHEMA_VERSION,
        "summary": headline(explained),
        **found,
        "findings": [
            asdict(finding) | {"bottleneck": finding.bottleneck.value, "severity": finding.severity.value}
            for finding in explained.judgement.findings
        ],
    }


def _ooms(explained: Explained, number: int) -> list[bool]:
    device = next(it for it in explained.snapshot.devices if it.device == number)
    return [failed.fragmented for failed in device.ooms]
