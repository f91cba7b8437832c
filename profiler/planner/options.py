"""From what a person asked on the command line to a request. Bad input is refused here, in one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from profiler.errors import ProfError
from profiler.planner.architecture import Model, with_lora
from profiler.planner.calibration import Calibration, calibrate, measured_device, read_runs
from profiler.planner.catalogue import Device, known_dataset, known_device, users_own
from profiler.planner.catalogue import known_model as catalogue_model
from profiler.planner.efficiency import given_mfu, given_tflops, in_use, machine
from profiler.planner.hf_config import read_config
from profiler.planner.layout import known_strategy, peak_flops
from profiler.planner.plan import Request
from profiler.planner.script import find_model
from profiler.planner.states import known_optimizer, known_precision


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's words, unread."""

    script: tuple[str, ...] = ()
    model: str | None = None
    config: Path | None = None
    params: str | None = None
    runs: tuple[Path, ...] = ()
    gpu: str | None = None
    gpus: int | None = None
    precision: str | None = None
    optimizer: str | None = None
    strategy: str | None = None
    tp: int = 1
    pp: int = 1
    ep: int = 1
    sp: bool = False
    recompute: str = "none"
    flash: bool = True
    offload: str = "none"
    micro_batch: int | None = None
    global_batch: int | None = None
    seq_len: int | None = None
    lora_rank: int | None = None
    lora_targets: str = "all"
    tokens: str | None = None
    dataset_size: str | None = None
    epochs: float | None = None
    flops: str | None = None
    achieved_tflops: float | None = None
    mfu: float | None = None
    price: float | None = None
    loader: float | None = None
    goodput: float = 1.0
    workers: int | None = None


def request_of(options: Options, directory: Path) -> Request:
    """The request that the options make, and the notes that go with it.

    Raises ProfError for whatever can't be planned.
    """
    own = users_own(directory)
    calibration = read_runs(options.runs) if options.runs else None
    device = _device(options, own, calibration)
    if calibration is not None:
        own_device = device if options.gpu is None else measured_device(calibration, own)
        calibration = replace(calibration, device=own_device)
    model = _model(options, own, calibration)
    precision = options.precision or _default_precision(device, calibration, model)
    known_precision(precision)
    optimizer = options.optimizer or (model.optimizer if model else None) or "adamw"
    known_optimizer(optimizer)
    devices = options.gpus if options.gpus is not None else (calibration.ranks if calibration else 1)
    strategy = options.strategy or "ddp"
    known_strategy(strategy)
    units = _units(options, model, own)
    flops = None if options.flops is None else _number("--flops", options.flops)
    if flops is not None and units is not None:
        raise ProfError("--flops already says how long the training is: pass it without --tokens or --dataset-size.")
    if model is None and flops is None and calibration is None:
        raise ProfError(
            "there is nothing to plan: pass --model NAME, --config FILE, --params N, --flops F, --from RUN, or a "
            "training script."
        )
    request = Request(
        model=model,
        device=in_use(device, options.price),
        devices=devices,
        precision=precision,
        optimizer=optimizer,
        strategy=strategy,
        tensor=options.tp,
        pipeline=options.pp,
        expert=options.ep,
        sequence_parallel=options.sp,
        recompute=options.recompute,
        flash=options.flash,
        offload=options.offload,
        micro_batch=options.micro_batch,
        global_batch=options.global_batch,
        units=units,
        flops=flops,
        loader_samples_per_s=options.loader,
        goodput=options.goodput,
    )
    if calibration is not None:
        request = calibrate(request, calibration, workers=options.workers)
    return _with_given_efficiency(request, options)


def _with_given_efficiency(request: Request, options: Options) -> Request:
    if options.mfu is not None and options.achieved_tflops is not None:
        raise ProfError("pass either --mfu or --achieved-tflops, not both.")
    if options.mfu is not None:
        return replace(request, efficiency=given_mfu(options.mfu))
    if options.achieved_tflops is not None:
        peak = peak_flops(request.device, known_precision(request.precision))
        return replace(request, efficiency=given_tflops(options.achieved_tflops, peak))
    return request


def _device(options: Options, own: dict[str, Any], calibration: Calibration | None) -> Device:
    if options.gpu is not None:
        return machine() if options.gpu.lower() == "cpu" else known_device(options.gpu, own)
    if calibration is not None:
        return measured_device(calibration, own)
    raise ProfError("pass the device to plan for, e.g. --gpu a100-80gb (or --gpu cpu for this machine).")


def _default_precision(device: Device, calibration: Calibration | None, model: Model | None) -> str:
    if calibration is not None:
        return calibration.precision
    if model is not None and model.precision and known_precision(model.precision).peak in device.peak_flops:
        return model.precision
    for name in ("bf16-mixed", "fp16-mixed"):
        if device.key != "cpu" and known_precision(name).peak in device.peak_flops:
            peak_flops(device, known_precision(name))
            return name
    return "fp32"


def _model(options: Options, own: dict[str, Any], calibration: Calibration | None) -> Model | None:
    given = [
        name
        for name, value in (
            ("a script", options.script),
            ("--model", options.model),
            ("--config", options.config),
            ("--params", options.params),
        )
        if value
    ]
    if len(given) > 1:
        raise ProfError(f"the model is given twice, by {' and '.join(given)}: pass one of them.")
    model: Model | None = None
    if options.script:
        model = find_model(options.script)
    elif options.model is not None:
        model = catalogue_model(options.model, own)
    elif options.config is not None:
        model = read_config(options.config)
    elif options.params is not None:
        model = bare_model(_number("--params", options.params))
    elif calibration is not None:
        model = calibration.model
    if model is None:
        return None
    if options.seq_len is not None:
        if not 1 <= options.seq_len <= 100_000_000:
            raise ProfError(f"--seq-len {options.seq_len} is absurd: it lies between 1 and some millions.")
        model = model.with_sequence(options.seq_len)
    return model if options.lora_rank is None else with_lora(model, options.lora_rank, options.lora_targets)


def bare_model(parameters: float) -> Model:
    """A model of which only the size is known."""
    if not 1 <= parameters <= 1e16:
        raise ProfError(f"--params {parameters:g} is absurd: models have some 1e5 to 1e13 parameters.")
    return Model(
        name=f"a model of {parameters:.4g} parameters",
        source="--params",
        parameters=parameters,
        trainable_parameters=parameters,
        flop_parameters=parameters,
    )


def _units(options: Options, model: Model | None, own: dict[str, Any]) -> float | None:
    if options.tokens is not None and options.dataset_size is not None:
        raise ProfError("pass either --tokens or --dataset-size with --epochs, not both.")
    if options.epochs is not None and options.dataset_size is None:
        raise ProfError("--epochs needs --dataset-size.")
    if options.epochs is not None and not 0 < options.epochs <= 1e6:
        raise ProfError(f"--epochs {options.epochs:g} is absurd: it lies above 0, commonly 1 to 300.")
    if options.tokens is not None:
        tokens = _number("--tokens", options.tokens)
        if model is None or model.unit == "token":
            return tokens
        if model.shape is None:
            raise ProfError(f"the tokens in a sample of {model.name} are not known: pass --dataset-size SAMPLES.")
        return tokens / model.shape.sequence
    if options.dataset_size is None:
        return None
    return _dataset_units(options.dataset_size, model, own) * (options.epochs or 1.0)


def _dataset_units(size: str, model: Model | None, own: dict[str, Any]) -> float:
    count = _parsed(size)
    if not math.isnan(count):
        return count
    found = known_dataset(size, own)
    wants_tokens = model is None or model.unit == "token"
    units = found.tokens if wants_tokens else found.samples
    if units is None:
        kind = "tokens" if wants_tokens else "samples"
        raise ProfError(f"the number of {kind} in {found.name} is not in the catalogue: pass it as --dataset-size N.")
    return units


def _number(flag: str, text: str) -> float:
    value = _parsed(text)
    if not 0 < value < 1e35:
        raise ProfError(f"{flag} {text} is no number above 0: write it as 300e9, 300B or 300_000_000_000.")
    return value


def _parsed(text: str) -> float:
    """A count as people write it; not a number where it is none."""
    suffixes = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
    plain = text.strip().lower().replace("_", "").replace(",", "")
    scale = suffixes.get(plain[-1:], 1.0)
    try:
        return float(plain[:-1] if scale != 1.0 else plain) * scale
    except ValueError:
        return math.nan
