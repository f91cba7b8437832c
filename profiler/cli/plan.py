"""`prof plan`: will it fit, how long will it take, what will it cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from profiler.errors import ProfError

EXAMPLES = """
\b
Examples:
  prof plan --model gpt3-175b --gpu a100-80gb --gpus 1024 --tokens 300e9 --strategy zero3
  prof plan train.py --gpu h100 --gpus 8            your own model, found without training it
  prof plan --from reports/my-run --gpus 64 --dataset-size 1.2e9    calibrated by a measured run
  prof plan --config llama/config.json --gpu rtx-4090 --lora-rank 16 --micro-batch 4
  prof plan --flops 3.14e23 --gpu v100 --achieved-tflops 28 --precision fp16-mixed
  prof plan --budget 500000 --gpu a100-80gb         what size of model and data a budget buys

A script's own arguments follow a `--`:
  prof plan --gpu h100 train.py -- --depth 24
"""

Function = TypeVar("Function", bound=Callable[..., Any])

_MODEL = [
    click.argument("script", nargs=-1, type=click.UNPROCESSED),
    click.option("--model", help="A model of the catalogue, e.g. gpt3-175b, llama3-8b, resnet50."),
    click.option("--config", type=click.Path(path_type=Path), help="A Hugging Face config.json."),
    click.option("--params", help="Only the number of parameters, e.g. 7e9 or 7B."),
    click.option(
        "--from",
        "runs",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A measured run to calibrate by; twice for two.",
    ),
    click.option("--seq-len", type=int, help="Tokens per sample."),
    click.option("--lora-rank", type=int, help="Freeze the model and train adapters of this rank."),
    click.option("--lora-targets", type=click.Choice(["all", "attention"]), default="all", show_default=True),
]
_DEVICE = [
    click.option("--gpu", help="A device of the catalogue, e.g. h100, rtx-4090, mi300x; `cpu` measures this machine."),
    click.option("--gpus", type=int, help="How many of them. [default: 1, or the run's]"),
    click.option("--price", type=float, help="US dollars per device-hour."),
    click.option("--goodput", type=float, default=1.0, show_default=True, help="Productive share of the elapsed time."),
    click.option("--loader", type=float, help="Samples per second that one rank's data loader gives."),
    click.option("--workers", type=int, help="DataLoader workers, to scale a measured run's loading by."),
]
_HOW = [
    click.option("--precision", help="fp32, tf32, bf16-mixed, fp16-mixed, fp8-mixed, bf16."),
    click.option("--optimizer", help="sgd, momentum, adam, adamw, adam8bit, adafactor, lion, muon."),
    click.option("--strategy", help="ddp, zero1, zero2, zero3, fsdp. [default: ddp]"),
    click.option("--tp", type=int, default=1, help="Tensor-parallel degree."),
    click.option("--pp", type=int, default=1, help="Pipeline stages."),
    click.option("--ep", type=int, default=1, help="Expert-parallel degree."),
    click.option("--sp/--no-sp", default=False, help="Sequence parallelism beside --tp."),
    click.option("--recompute", default="none", show_default=True, help="none, selective, full."),
    click.option("--flash/--no-flash", default=True, help="Flash attention. [default: on]"),
    click.option("--offload", default="none", show_default=True, help="none, optimizer, all: to the CPU's memory."),
    click.option("--micro-batch", type=int, help="Samples per device and pass."),
    click.option("--global-batch", type=int, help="Samples per optimizer step."),
]
_LENGTH = [
    click.option("--tokens", help="Tokens to train on, e.g. 300e9 or 300B."),
    click.option("--dataset-size", help="Samples (tokens for language models) in the data set, or its name."),
    click.option("--epochs", type=float, help="Passes over it."),
    click.option("--flops", help="FLOPs of the whole training, instead."),
    click.option("--achieved-tflops", type=float, help="TFLOP/s that each device really does."),
    click.option("--mfu", type=float, help="Model FLOPs utilisation, 0 to 1."),
    click.option("--budget", type=float, help="US dollars: what model and data they buy (Chinchilla)."),
]
_OUTPUT = [
    click.option("--json", "json_output", is_flag=True, help="Print one JSON object."),
    click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots."),
]


def _options(*groups: list[Callable[[Any], Any]]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate


@click.command(name="plan", epilog=EXAMPLES, context_settings={"ignore_unknown_options": False})
@_options(_MODEL, _DEVICE, _HOW, _LENGTH, _OUTPUT)
def command(json_output: bool, html: Path | None, budget: float | None, **words: Any) -> None:
    """Plan a training: will it fit, how long will it take, what will it cost.

    Nothing is trained and no GPU is touched.
    """
    from rich.console import Console

    from profiler.planner.alternatives import alternatives, find_layouts
    from profiler.planner.contract import as_json
    from profiler.planner.options import Options, request_of
    from profiler.planner.plan import make_plan
    from profiler.planner.remedy import remedy
    from profiler.report.plan.terminal import print_plan

    if budget is not None:
        given = [name for name in ("script", "model", "config", "params", "runs") if words[name]]
        if given or html is not None:
            what = "--html draws a plan" if not given else "the model is given"
            raise ProfError(f"--budget asks what model to train and only prints it, but {what}: leave one of them out.")
        _print_budget(budget, words, json_output)
        return
    plan = make_plan(request_of(Options(**words), Path.cwd()))
    findings, solution = find_layouts(plan), remedy(plan)
    others = alternatives(plan, findings, solution)
    if html is not None:
        from profiler.report.plan.page import page

        try:
            html.write_text(page(plan, others, findings, solution), encoding="utf-8")
        except OSError as error:
            raise ProfError(f"{html} can't be written: {error.strerror}.") from error
    if json_output:
        click.echo(json.dumps(as_json(plan, others, findings, solution), indent=1, allow_nan=False))
        return
    print_plan(plan, others, findings, Console(soft_wrap=False), solution)
    if html is not None:
        click.echo(f"\nThe page is at {html}")


def _print_budget(budget: float, words: dict[str, Any], json_output: bool) -> None:
    """What a budget buys, compute-optimally."""
    from profiler.planner.catalogue import known_device, users_own
    from profiler.planner.efficiency import given_mfu, in_use
    from profiler.planner.layout import peak_flops
    from profiler.planner.quantity import count_text
    from profiler.planner.scaling import optimal_for_budget
    from profiler.planner.states import known_precision

    if not 1 <= budget <= 1e12:
        raise ProfError(f"--budget {budget:g} is absurd: it is in US dollars.")
    if words["gpu"] is None:
        raise ProfError("--budget needs the device to spend it on, e.g. --gpu a100-80gb.")
    device = in_use(known_device(words["gpu"], users_own(Path.cwd())), words["price"])
    if not device.price_usd_per_hour:
        raise ProfError(f"{device.name} has no price in the catalogue: pass --price above 0.")
    published = (device.efficiency[0] * device.efficiency[1]) ** 0.5
    mfu = published if words["mfu"] is None else given_mfu(words["mfu"]).value
    peak = peak_flops(device, known_precision(words["precision"] or "bf16-mixed"))
    best = optimal_for_budget(budget, device.price_usd_per_hour, peak, mfu)
    if json_output:
        answer = {
            "schema_version": 1,
            "budget_usd": budget,
            "parameters": best.parameters,
            "tokens": best.tokens,
            "flops": best.flops,
        }
        click.echo(json.dumps(answer, indent=1))
        return
    click.echo(
        f"${budget:,.0f} buy {best.flops:.3g} FLOPs on {device.name} at ${device.price_usd_per_hour:g} an hour and "
        f"{mfu:.0%} MFU:\nbest spent on {count_text(best.parameters)} parameters and {count_text(best.tokens)} tokens "
        "(Chinchilla: 20 tokens per parameter, C = 6ND)."
    )
