"""A Hugging Face `config.json` as a transformer's shape. Reads the file, never the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from profiler.errors import ProfError
from profiler.planner.architecture import Model, transformer, transformer_model

GATED = {
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "gemma", "gemma2", "gemma3",
    "gemma3_text", "phi3", "olmo", "olmo2", "cohere", "granite", "stablelm", "internlm2", "smollm3", "deepseek",
}  # fmt: skip
TIED_BY_DEFAULT = {
    "gpt2",
    "bert",
    "roberta",
    "distilbert",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "opt",
    "bloom",
    "cohere",
}
LEARNED_POSITIONS = {"gpt2", "bert", "roberta", "distilbert", "opt", "electra", "gpt_bigcode", "xlm-roberta"}
NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "vocabulary": ("vocab_size",),
    "sequence": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim"),
    "kv_heads": ("num_key_value_heads",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "active_experts": ("num_experts_per_tok",),
}
DEFAULT_SEQUENCE = 2048
MOST_SEQUENCE = 8192  # a longer context is what the model bears, seldom what it is trained at


def read_config(path: Path) -> Model:
    """The model of a config.json (or of the folder that holds one). Raises ProfError when it is none."""
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfError(f"{file} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise ProfError(f"{file} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ProfError(f"{file} holds no JSON object: a Hugging Face config.json is expected.")
    inner = config.get("text_config")
    return model_of({**config, **inner} if isinstance(inner, dict) else config, str(file))


def model_of(config: dict[str, Any], source: str) -> Model:
    """The model of a config's dictionary. Raises ProfError naming the missing keys."""
    kind = str(config.get("model_type", "unknown"))
    if config.get("is_encoder_decoder"):
        raise ProfError(f"{source} is an encoder and a decoder, and one stack of layers is planned: pass the script.")
    found = {name: _first(config, keys, source) for name, keys in NAMES.items()}
    missing = [NAMES[name][0] for name in ("layers", "hidden", "heads", "vocabulary") if found[name] is None]
    if missing:
        raise ProfError(
            f"{source} lacks {', '.join(missing)}: only transformers' configs can be read; for another model pass the "
            f"training script."
        )
    longest = found["sequence"] or DEFAULT_SEQUENCE
    gated = kind in GATED or (found["kv_heads"] is not None and config.get("hidden_act") in ("silu", "swiglu"))
    experts = found["experts"] or 1
    if experts > 1 and isinstance(config.get("moe_intermediate_size"), int):
        found["ffn"] = config["moe_intermediate_size"]
    learned = kind in LEARNED_POSITIONS
    tied = config.get("tie_word_embeddings", kind in TIED_BY_DEFAULT or not gated)
    head_dim = config.get("head_dim")
    if head_dim is None and kind == "gemma":
        head_dim = 256
    dropouts = ("hidden_dropout_prob", "resid_pdrop", "attention_probs_dropout_prob", "dropout")
    dropout = any(isinstance(config.get(key), (int, float)) and config[key] > 0 for key in dropouts)
    layers, hidden = found["layers"], found["hidden"]
    heads, vocabulary = found["heads"], found["vocabulary"]
    assert layers is not None and hidden is not None and heads is not None and vocabulary is not None
    shape = transformer(
        layers=layers,
        hidden=hidden,
        heads=heads,
        vocabulary=vocabulary,
        sequence=longest if learned else min(longest, MOST_SEQUENCE),
        ffn=found["ffn"],
        kv_heads=found["kv_heads"],
        head_dim=int(head_dim) if head_dim else None,
        gated=gated,
        tied=bool(tied),
        learned_positions=learned,
        biases=not gated,
        dropout=dropout,
        rms_norm=gated or "rms_norm_eps" in config,
        experts=experts,
        active_experts=found["active_experts"] or 1,
    )
    name = str(config.get("_name_or_path") or (config.get("architectures") or [kind])[0])
    return transformer_model(name, shape, f"{source} ({kind}); parameters computed from its shape")


def _first(config: dict[str, Any], keys: tuple[str, ...], source: str) -> int | None:
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ProfError(f"{source}: {key} is {value!r}, where a whole number above 0 is expected.")
        return value
    return None
