"""Find the model that a training script builds, without training it.

The script runs in a process of its own under `probe`, which ends it at its first optimizer step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from profiler.errors import ProfError
from profiler.planner.architecture import Counted, Model
from profiler.planner.states import OPTIMIZERS

LIMIT_S = 180.0
INSTEAD = "pass --model NAME, --config FILE or --params N instead"


def find_model(command: tuple[str, ...], *, limit_s: float = LIMIT_S) -> Model:
    """The model of `("train.py", "--depth", "8")`. Raises ProfError where none can be found, saying what to pass."""
    script = Path(command[0])
    if not script.is_file():
        raise ProfError(f"there is no script {script}: {INSTEAD}.")
    seen = _probe(script, command[1:], limit_s)
    if not seen["parameters"]:
        reason = f": {seen['problem']}" if seen["problem"] else ""
        raise ProfError(
            f"{script} came to no forward pass of a model in training, so its model can't be found{reason}; {INSTEAD}."
        )
    return model_from(seen, str(script))


def model_from(seen: dict[str, Any], script: str) -> Model:
    """The model that the probe's result describes."""
    batch, accumulated = seen["counted"]["batch"], seen["counted"]["micro_batches"]
    until = "optimizer step" if seen["stepped"] else "backward pass" if seen["reached_loss"] else "forward pass"
    notes = [
        f"The model was found by running {script} on the meta device up to its first {until}, with batches of "
        f"{batch}; it was not trained, and fused attention was assumed where it is asked for"
    ]
    cause = f" ({seen['problem']})" if seen["problem"] else ""
    if not seen["stepped"] and seen["declared"]:
        notes.append(
            f"It was not followed to an optimizer step{cause}: its trainer's gradient_accumulation_steps, "
            f"{accumulated}, are taken for the micro-batches of a step"
        )
    elif accumulated > 1:
        notes.append(
            f"It makes {accumulated} backward passes before it steps: the plan accumulates as many micro-batches"
        )
    elif not seen["stepped"]:
        notes.append(f"It was not followed to an optimizer step{cause}: one backward pass is taken to make a step")
    if not seen["reached_loss"]:
        notes.append(f"The script did not come to its loss{cause}: the loss's activations are not in the figures")
    if seen["autocast"]:
        notes.append(f"Autocast to {seen['autocast']} was seen; --precision overrides it")
    return Model(
        name=seen["name"],
        source=script,
        parameters=float(seen["parameters"]),
        trainable_parameters=float(seen["trainable_parameters"]),
        flop_parameters=None,
        unit="sample",
        counted=Counted(**seen["counted"]),
        buffers=float(seen["buffers"]),
        largest_layer_parameters=float(seen["largest_layer_parameters"]),
        optimizer=optimizer_name(seen["optimizer"], seen["momentum"]),
        precision=f"{seen['autocast']}-autocast" if seen["autocast"] else None,
        notes=tuple(notes),
    )


def optimizer_name(class_name: str | None, momentum: bool) -> str | None:
    """The planner's name of an optimizer class; None where it has none."""
    if class_name is None:
        return None
    name = class_name.lower()
    if name == "sgd":
        return "momentum" if momentum else "sgd"
    return name if name in OPTIMIZERS else {"adamw8bit": "adam8bit", "nadam": "adam", "radam": "adam"}.get(name)


def _probe(script: Path, arguments: tuple[str, ...], limit_s: float) -> dict[str, Any]:
    hidden = dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), "")
    environment = {**os.environ, **hidden, "TORCHDYNAMO_DISABLE": "1", "WANDB_MODE": "disabled", "PROF_DISABLE": "1"}
    with tempfile.TemporaryDirectory(prefix="prof-plan-") as folder:
        result = Path(folder) / "seen.json"
        command = [sys.executable, "-m", "profiler.planner.probe", str(result), str(script), *arguments]
        try:
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s
            )
        except subprocess.TimeoutExpired as error:
            if result.is_file():  # it came to its first backward pass
                return _read(result)
            raise ProfError(
                f"{script} came to no backward pass within {limit_s:g} s, so its model can't be found; {INSTEAD}."
            ) from error
        if result.is_file():
            return _read(result)
        last = (done.stderr.strip().splitlines() or ["it left no message"])[-1]
        raise ProfError(f"{script} ended before its model could be found ({last}); {INSTEAD}.")


def _read(result: Path) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return seen
