"""Hugging Face config.json files: parameters against the released checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from profiler.errors import ProfError
from profiler.planner.hf_config import model_of, read_config

LLAMA2 = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000, "hidden_act": "silu",
    "max_position_embeddings": 4096, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
}  # fmt: skip
MIXTRAL = LLAMA2 | {
    "model_type": "mixtral", "num_key_value_heads": 8, "intermediate_size": 14336, "num_local_experts": 8,
    "num_experts_per_tok": 2, "max_position_embeddings": 32768,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}


@pytest.mark.parametrize(
    ("config", "released"), [(LLAMA2, 6_738_415_616), (MIXTRAL, 46_702_792_704), (GPT2, 124_439_808)]
)
def test_a_config_gives_exactly_the_released_checkpoints_parameters(config: dict[str, Any], released: int) -> None:
    assert model_of(config, "config.json").parameters == released


def test_a_folder_with_a_config_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2), encoding="utf-8")
    assert read_config(tmp_path).shape == read_config(tmp_path / "config.json").shape


def test_a_context_longer_than_trainings_are_is_cut_for_the_plan() -> None:
    shape = model_of(MIXTRAL, "config.json").shape
    assert shape is not None and shape.sequence == 8192


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[1]", "no JSON object"),
        ('{"model_type": "resnet"}', "lacks num_hidden_layers"),
        (json.dumps(LLAMA2 | {"num_hidden_layers": "many"}), "num_hidden_layers is 'many'"),
        (json.dumps(LLAMA2 | {"num_attention_heads": 33}), "does not divide into 33 heads"),
    ],
)
def test_a_config_that_is_none_gives_one_clear_sentence(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ProfError, match=reason):
        read_config(file)


def test_a_missing_config_is_named() -> None:
    with pytest.raises(ProfError, match=r"nowhere\.json can't be read"):
        read_config(Path("nowhere.json"))
