"""The catalogues: devices, models, data sets, published costs, and the user's own from `[tool.prof.planner]`.

Names are forgiving about case and separators; an unknown one is refused with the nearest that exist.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from profiler.config import read_table
from profiler.errors import ProfError
from profiler.planner.architecture import Counted, Model, transformer, transformer_model

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator. Rates are per second; `None` means that no figure is known."""

    key: str
    name: str
    memory_bytes: float  # as the datasheet names it
    reported_bytes: float  # as the driver reports it, where larger
    bandwidth_bytes_per_s: float
    peak_flops: Mapping[str, float]  # dense, by number format
    tdp_w: float | None
    link_bytes_per_s: float | None  # one direction, inside a node
    devices_per_node: int
    network_bytes_per_s: float  # one direction, per device, between nodes
    efficiency: tuple[float, float]  # hardware FLOP utilisation, published range
    efficiency_source: str
    price_usd_per_hour: float | None
    price_source: str
    year: int | None
    source: str


@dataclass(frozen=True, slots=True)
class DataSet:
    """A published data set."""

    key: str
    name: str
    samples: float | None
    tokens: float | None
    size_bytes: float | None
    year: int
    source: str


@lru_cache(maxsize=8)
def shipped(name: str) -> dict[str, Any]:
    """One of the catalogues that ship with the package, e.g. "devices"."""
    text = (files("profiler.planner") / "catalogues" / f"{name}.toml").read_text(encoding="utf-8")
    value: dict[str, Any] = tomllib.loads(text)
    return value


def users_own(directory: Path) -> dict[str, Any]:
    """`[tool.prof.planner]` of the nearest pyproject.toml at or above the directory; empty where there is none."""
    found = read_table(directory).get("planner", {})
    return found if isinstance(found, dict) else {}


def squeezed(name: str) -> str:
    """A name without case and separators: "H100-80GB" → "h10080gb"."""
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == ".")


def find(kind: str, name: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The key of the entry of that name or alias. Raises ProfError with the nearest names."""
    spellings = {squeezed(alias): key for key, entry in entries.items() for alias in (key, *entry.get("aliases", ()))}
    wanted = squeezed(name)
    if wanted in spellings:
        return spellings[wanted]
    near = difflib.get_close_matches(wanted, spellings, n=4, cutoff=0.5)
    near += [spelling for spelling in spellings if wanted and (wanted in spelling or spelling in wanted)]
    names = list(dict.fromkeys(spellings[spelling] for spelling in near))[:5]
    hint = (
        f"the nearest are {', '.join(names)}" if names else f"known are, among others, {', '.join(list(entries)[:8])}"
    )
    raise ProfError(f"there is no {kind} called '{name}' in the catalogue: {hint}.")


def device_entries(own: Mapping[str, Any] | None = None) -> dict[str, Mapping[str, Any]]:
    """Shipped devices and the user's, which win."""
    return {**shipped("devices")["devices"], **_tables((own or {}).get("devices"), "devices")}


def model_entries(own: Mapping[str, Any] | None = None) -> dict[str, Mapping[str, Any]]:
    """Shipped models and the user's, which win."""
    return {**shipped("models")["models"], **_tables((own or {}).get("models"), "models")}


def dataset_entries(own: Mapping[str, Any] | None = None) -> dict[str, Mapping[str, Any]]:
    """Shipped data sets and the user's, which win."""
    return {**shipped("datasets")["datasets"], **_tables((own or {}).get("datasets"), "datasets")}


def known_device(name: str, own: Mapping[str, Any] | None = None) -> Device:
    """The device of that name. Raises ProfError with the nearest names."""
    entries = device_entries(own)
    key = find("GPU", name, entries)
    return device_from(key, entries[key])


def device_from(key: str, entry: Mapping[str, Any]) -> Device:
    """A device from its table. Raises ProfError when a figure it can't do without is missing."""
    defaults = shipped("devices")["defaults"]
    try:
        memory = float(entry["memory_gb"]) * 1e9
        peak = {str(name): float(value) * 1e12 for name, value in entry["peak"].items()}
        low, high = entry.get("efficiency", defaults["efficiency"])
        return Device(
            key=key,
            name=str(entry.get("name", key)),
            memory_bytes=memory,
            reported_bytes=max(memory, float(entry.get("reported_gib", 0)) * 2**30),
            bandwidth_bytes_per_s=float(entry["bandwidth_gbs"]) * 1e9,
            peak_flops=peak,
            tdp_w=_number(entry.get("tdp_w")),
            link_bytes_per_s=_scaled(entry.get("link_gbs"), 1e9),
            devices_per_node=int(entry.get("devices_per_node", 8)),
            network_bytes_per_s=float(entry.get("network_gbs", 12.5)) * 1e9,
            efficiency=(float(low), float(high)),
            efficiency_source=str(entry.get("efficiency_source", defaults["efficiency_source"])),
            price_usd_per_hour=_number(entry.get("price")),
            price_source=str(defaults["price_source"]),
            year=entry.get("year"),
            source=str(entry.get("source", "[tool.prof.planner]")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProfError(
            f"the device '{key}' in [tool.prof.planner.devices] needs memory_gb, bandwidth_gbs and "
            f"peak = {{bf16 = TFLOPS}}: {error!r} is wrong."
        ) from error


def known_model(name: str, own: Mapping[str, Any] | None = None) -> Model:
    """The model of that name. Raises ProfError with the nearest names."""
    entries = model_entries(own)
    key = find("model", name, entries)
    return model_from(key, entries[key])


def model_from(key: str, entry: Mapping[str, Any]) -> Model:
    """A model from its table. Raises ProfError when a figure it can't do without is missing."""
    try:
        name, source = str(entry.get("name", key)), str(entry.get("source", "[tool.prof.planner]"))
        unit = str(entry.get("unit", "token"))
        tokens, batch = _number(entry.get("tokens")), entry.get("global_batch")
        if "layers" in entry:
            shape = transformer(
                layers=int(entry["layers"]),
                hidden=int(entry["hidden"]),
                heads=int(entry["heads"]),
                vocabulary=int(entry["vocabulary"]),
                sequence=int(entry["sequence"]),
                ffn=entry.get("ffn"),
                kv_heads=entry.get("kv_heads"),
                head_dim=entry.get("head_dim"),
                gated=bool(entry.get("gated", False)),
                tied=bool(entry.get("tied", True)),
                learned_positions=bool(entry.get("learned_positions", True)),
                biases=bool(entry.get("biases", True)),
                dropout=bool(entry.get("dropout", True)),
                rms_norm=entry.get("norm") == "rms",
                experts=int(entry.get("experts", 1)),
                active_experts=int(entry.get("active_experts", 1)),
            )
            return transformer_model(
                name,
                shape,
                source,
                parameters=_number(entry.get("parameters")),
                flop_parameters=_number(entry.get("flop_parameters")),
                unit=unit,
                global_batch=batch,
                tokens=tokens,
            )
        parameters = float(entry["parameters"])
        return Model(
            name=name,
            source=source,
            parameters=parameters,
            trainable_parameters=parameters,
            flop_parameters=None,
            unit=str(entry.get("unit", "sample")),
            counted=_published_count(entry),
            forward_flops_per_sample=_scaled(entry.get("forward_gmacs_per_sample"), 2e9),
            buffers=float(entry.get("buffers", 0)),
            global_batch=batch,
            tokens=tokens,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProfError(
            f"the model '{key}' in [tool.prof.planner.models] needs layers, hidden, heads, vocabulary and sequence, "
            f"or parameters and forward_gmacs_per_sample: {error!r} is wrong."
        ) from error


def _published_count(entry: Mapping[str, Any]) -> Counted | None:
    """The catalogue's own count of a model that is no transformer; None where activations are not in it."""
    if "activation_mb_per_sample" not in entry or "forward_gmacs_per_sample" not in entry:
        return None
    return Counted(
        flops_per_sample=float(entry["forward_gmacs_per_sample"]) * 2e9,
        flops_fixed=0.0,
        activation_bytes_per_sample=float(entry["activation_mb_per_sample"]) * 1e6,
        activation_fixed_bytes=0.0,
        batch=32,
        calls=float(entry.get("operators", 0)),
    )


def known_dataset(name: str, own: Mapping[str, Any] | None = None) -> DataSet:
    """The data set of that name. Raises ProfError with the nearest names."""
    entries = dataset_entries(own)
    key = find("data set", name, entries)
    return dataset_from(key, entries[key])


def dataset_from(key: str, entry: Mapping[str, Any]) -> DataSet:
    """A data set from its table."""
    return DataSet(
        key=key,
        name=str(entry.get("name", key)),
        samples=_number(entry.get("samples")),
        tokens=_number(entry.get("tokens")),
        size_bytes=_scaled(entry.get("gb"), 1e9),
        year=int(entry.get("year", 0)),
        source=str(entry.get("source", "[tool.prof.planner]")),
    )


def _tables(value: Any, name: str) -> dict[str, Mapping[str, Any]]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise ProfError(
            f"[tool.prof.planner.{name}] must hold one table per entry, e.g. [tool.prof.planner.{name}.mine]."
        )
    return value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _scaled(value: Any, scale: float) -> float | None:
    return None if value is None else float(value) * scale
