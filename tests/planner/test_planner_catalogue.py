"""Catalogues: counts against released checkpoints, forgiving names, the user's own entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.errors import ProfError
from profiler.planner.catalogue import (
    dataset_entries,
    device_entries,
    known_dataset,
    known_device,
    known_model,
    model_entries,
    users_own,
)

# as the released checkpoints count their parameters
RELEASED = {
    "gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200,
    "llama-7b": 6_738_415_616, "llama-65b": 65_285_660_672, "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248, "llama3-70b": 70_553_706_496, "llama3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096, "mixtral-8x7b": 46_702_792_704,
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_a_shape_gives_exactly_the_parameters_of_the_released_checkpoint(name: str) -> None:
    assert known_model(name).parameters == RELEASED[name]


def test_of_mixtrals_46_7_billion_a_token_passes_12_9() -> None:
    assert known_model("mixtral-8x7b").flop_parameters == pytest.approx(12.9e9, rel=0.005)


def test_every_entry_can_be_read_and_names_its_source() -> None:
    for name, entry in device_entries().items():
        device = known_device(name)
        assert entry["source"] and device.memory_bytes > 1e9 and max(device.peak_flops.values()) > 1e12
    for name, entry in model_entries().items():
        assert entry["source"] and known_model(name).parameters > 1e6
    for name, entry in dataset_entries().items():
        found = known_dataset(name)
        assert entry["source"] and (found.samples or found.tokens)


@pytest.mark.parametrize("name", ["V100", "mi250", "MI355X", "b200", "RTX 4090", "a100_80gb", "h100-80gb"])
def test_names_are_read_whatever_their_case_and_separators(name: str) -> None:
    assert known_device(name).memory_bytes > 0


@pytest.mark.parametrize(("name", "nearest"), [("h1000", "h100"), ("a100-90gb", "a100-80gb"), ("rtx4099", "rtx-4090")])
def test_an_unknown_device_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ProfError, match=nearest):
        known_device(name)


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(ProfError, match="llama3-8b"):
        known_model("lama3-8b")


def test_users_add_their_own_in_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.prof.planner.devices.mine]\nmemory_gb = 10\nbandwidth_gbs = 100\npeak = { fp32 = 1.0 }\n"
        "[tool.prof.planner.models.ours]\nlayers = 2\nhidden = 64\nheads = 4\nvocabulary = 100\nsequence = 32\n",
        encoding="utf-8",
    )
    deeper = tmp_path / "a" / "b"
    deeper.mkdir(parents=True)
    own = users_own(deeper)
    assert known_device("mine", own).memory_bytes == 10e9
    # 12h² + 13h per layer, embeddings of 132 rows, the final norm
    assert known_model("ours", own).parameters == 2 * (12 * 64**2 + 13 * 64) + 132 * 64 + 128


def test_a_device_of_the_users_that_lacks_a_figure_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.prof.planner.devices.mine]\nmemory_gb = 10\n", encoding="utf-8")
    with pytest.raises(ProfError, match=r"'mine'.*bandwidth_gbs"):
        known_device("mine", users_own(tmp_path))
