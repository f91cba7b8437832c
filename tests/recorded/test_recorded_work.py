"""The work of operators that an H200 ran, beside what its datasheet allows and what the live run counted itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from packing import ON_GPU, unpack

from profiler.analysis.build import read_facts


@pytest.mark.parametrize("name", ["healthy_gpt_bf16", "full_float32", "healthy_images"])
def test_operators_of_an_h200_stay_below_its_roof_and_come_near_it(name: str, tmp_path: Path) -> None:
    found = read_facts(unpack(ON_GPU, name, tmp_path))
    roofline, path = found.roofline, found.critical_path
    assert roofline is not None and roofline.peaks is not None and path is not None
    assert roofline.peaks.source == "datasheet of NVIDIA H200 SXM 141 GB"
    assert roofline.told_share > 0.8
    shares = [row.roof_share for row in roofline.rows if row.roof_share is not None]
    assert max(shares) <= 1.05
    assert max(shares) > 0.6
    assert sum(path.parts_ms.values()) == pytest.approx(path.step_ms, abs=1e-6)


def test_operations_by_shape_are_those_that_the_run_counted(tmp_path: Path) -> None:
    """All its products are among the rows that take longest."""
    found = read_facts(unpack(ON_GPU, "full_float32", tmp_path))
    assert found.roofline is not None and found.arithmetic is not None and found.device is not None
    steps = len(found.device.steps)
    told = sum((row.flops or 0.0) * row.count for row in found.roofline.rows) / steps
    assert told == pytest.approx(found.arithmetic.flops_per_step, rel=0.02)
