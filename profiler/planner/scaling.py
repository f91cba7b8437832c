"""Scaling laws: how large a model and how many tokens a budget buys; how models and data sets have grown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from profiler.planner.catalogue import dataset_entries, model_entries, model_from, shipped

TOKENS_PER_PARAMETER = 20.0  # Hoffmann et al. 2022 ("Chinchilla"), their rule of thumb


@dataclass(frozen=True, slots=True)
class Optimum:
    """A compute-optimal training."""

    parameters: float
    tokens: float
    flops: float


@dataclass(frozen=True, slots=True)
class CostRow:
    """One row of the published cost table beside what its own device count and price give."""

    model: str
    parameters: float
    days: float
    published_usd: float
    computed_usd: float
    implied_mfu: float  # that 6ND and the published days imply, of A100's 312 TFLOP/s


@dataclass(frozen=True, slots=True)
class Milestone:
    """A model or data set in the history of their growth."""

    name: str
    year: float
    size: float  # parameters, or samples or tokens
    unit: str


def optimal_tokens(parameters: float) -> float:
    """Compute-optimal training tokens of a model: 20 per parameter."""
    return TOKENS_PER_PARAMETER * parameters


def optimal_for_flops(flops: float) -> Optimum:
    """The model and data that C = 6·N·20N spends best."""
    parameters = math.sqrt(flops / (6 * TOKENS_PER_PARAMETER))
    return Optimum(parameters, optimal_tokens(parameters), flops)


def optimal_for_budget(usd: float, price_usd_per_hour: float, peak_flops: float, mfu: float) -> Optimum:
    """The same for a budget in dollars, at a device's price, peak and efficiency."""
    return optimal_for_flops(usd / price_usd_per_hour * 3600 * peak_flops * mfu)


def cost_table() -> list[CostRow]:
    """The book's table of training costs, as a worked example."""
    catalogue = shipped("training_costs")
    devices, price = float(catalogue["table"]["devices"]), float(catalogue["table"]["price_usd_per_hour"])
    per_parameter = float(catalogue["table"]["tokens_per_parameter"])
    rows = []
    for row in catalogue["rows"]:
        parameters, days = float(row["parameters"]), float(row["days"])
        flops = 6 * parameters * per_parameter * parameters
        rows.append(
            CostRow(
                model=row["model"],
                parameters=parameters,
                days=days,
                published_usd=float(row["usd"]),
                computed_usd=days * 24 * devices * price,
                implied_mfu=flops / (days * 86400 * devices * 312e12),
            )
        )
    return rows


def model_growth(own: dict[str, Any] | None = None) -> list[Milestone]:
    """Models of the catalogue by year, earliest first."""
    found = [
        Milestone(model_from(key, entry).name, float(entry["year"]), model_from(key, entry).parameters, "parameters")
        for key, entry in model_entries(own).items()
        if "year" in entry
    ]
    return sorted(found, key=lambda milestone: milestone.year)


def dataset_growth(own: dict[str, Any] | None = None) -> list[Milestone]:
    """Data sets of the catalogue by year; tokens where they are text, else samples."""
    found = [
        Milestone(
            str(entry.get("name", key)),
            float(entry["year"]),
            float(entry["tokens"] if "tokens" in entry else entry["samples"]),
            "tokens" if "tokens" in entry else "samples",
        )
        for key, entry in dataset_entries(own).items()
        if "year" in entry
    ]
    return sorted(found, key=lambda milestone: milestone.year)
