"""Finding a script's model: exact against real runs, without training, without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from profiler.errors import ProfError
from profiler.planner.architecture import Model
from profiler.planner.autocast import Autocast
from profiler.planner.catalogue import known_device
from profiler.planner.count import count_module
from profiler.planner.options import Options, request_of
from profiler.planner.plan import Request, make_plan
from profiler.planner.script import find_model

SCRIPTS = Path(__file__).parent / "scripts"


def really_saved_bytes(loss_of, parameters) -> int:  # type: ignore[no-untyped-def]
    """What autograd really keeps on the CPU for one step, each storage once, parameters aside."""
    ignored = {each.untyped_storage().data_ptr() for each in parameters}
    seen: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignored:
            seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of()
    return sum(seen.values())


def saved(model: Model, samples: int) -> float:
    assert model.counted is not None
    return model.counted.activation_fixed_bytes + model.counted.activation_bytes_per_sample * samples


def imported(name: str, arguments: list[str]) -> dict:
    """The script's names, after really running it on the CPU."""
    import runpy

    before, sys.argv = sys.argv, [name, *arguments]
    try:
        return runpy.run_path(str(SCRIPTS / name), run_name="__main__" if name != "resnet.py" else "imported")
    finally:
        sys.argv = before


def test_a_gpt_is_counted_as_a_real_step_saves_it() -> None:
    model = find_model((str(SCRIPTS / "gpt.py"), "--depth", "3"))
    real = imported("gpt.py", ["--depth", "3"])
    assert model.parameters == sum(each.numel() for each in real["model"].parameters())
    assert model.optimizer == "adamw"
    assert model.counted is not None and model.counted.batch == 8
    expected = really_saved_bytes(lambda: real["model"](*real["get_batch"]())[1], real["model"].parameters())
    assert saved(model, 8) == pytest.approx(expected, rel=0.001)


def test_a_gpts_flops_are_two_per_weight_and_token_and_its_attention() -> None:
    model = find_model((str(SCRIPTS / "gpt.py"), "--depth", "3"))
    tokens, width = 64, 64
    weights = 3 * 12 * width**2 + 512 * width
    attention = 3 * 4 * tokens**2 * width
    assert model.counted is not None
    assert model.counted.flops_per_sample == pytest.approx(2 * weights * tokens + attention, rel=0.001)


def test_a_resnet_that_insists_on_a_gpu_is_found_and_is_the_published_one() -> None:
    model = find_model((str(SCRIPTS / "resnet.py"),))
    assert model.parameters == 25_557_032
    assert model.optimizer == "momentum"
    assert model.counted is not None and model.counted.batch == 4
    assert model.counted.flops_per_sample == pytest.approx(2 * 4.09e9, rel=0.005)


def test_a_resnets_activations_are_those_of_a_real_step() -> None:
    model = find_model((str(SCRIPTS / "resnet.py"),))
    real = imported("resnet.py", [])["ResNet"]()
    images, labels = torch.rand(2, 3, 224, 224), torch.tensor([1, 2])
    expected = really_saved_bytes(
        lambda: torch.nn.functional.cross_entropy(real(images), labels), [*real.parameters(), *real.buffers()]
    )
    assert saved(model, 2) == pytest.approx(expected, rel=0.02)


def test_frozen_parts_have_no_gradients_in_the_plan() -> None:
    model = find_model((str(SCRIPTS / "lora.py"),))
    assert model.trainable_parameters == 5 * 2 * 8 * 256
    assert model.parameters == 5 * (256 * 256 + 256) + model.trainable_parameters
    assert model.precision in ("bf16-autocast", "fp16-autocast")


def test_a_model_of_300_gigabytes_is_found_in_little_memory() -> None:
    model = find_model((str(SCRIPTS / "gpt.py"), "--depth", "96", "--width", "8192"))
    assert model.parameters * 4 > 300e9


def write(folder: Path, text: str) -> tuple[str]:
    script = folder / "train.py"
    script.write_text(text, encoding="utf-8")
    return (str(script),)


def test_the_script_never_trains(tmp_path: Path) -> None:
    mark = tmp_path / "trained"
    script = write(
        tmp_path,
        "import torch\nmodel = torch.nn.Linear(4, 1)\nopt = torch.optim.SGD(model.parameters(), lr=1)\n"
        f"model(torch.rand(2, 4)).sum().backward()\nopt.step()\nopen({str(mark)!r}, 'w').write('x')\n",
    )
    assert find_model(script).parameters == 5
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("print('nothing here')\n", "came to no forward pass"),
        ("import torch\nraise RuntimeError('no data folder')\n", "no data folder"),
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "exit code 3"),
        (
            "import torch\nwith torch.no_grad():\n    torch.nn.Linear(2, 2)(torch.rand(1, 2))\n",
            "came to no forward pass",
        ),
    ],
)
def test_a_script_whose_model_is_not_found_says_what_to_pass_instead(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ProfError, match=reason) as error:
        find_model(write(tmp_path, text))
    assert "--model" in str(error.value) and "--params" in str(error.value)


def test_a_script_that_comes_to_no_end_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ProfError, match="within 3 s"):
        find_model(write(tmp_path, "import time\ntime.sleep(60)\n"), limit_s=3)


def test_a_missing_script_is_named() -> None:
    with pytest.raises(ProfError, match=r"no script nowhere\.py"):
        find_model(("nowhere.py",))


def test_a_module_on_meta_is_counted_from_python_too() -> None:
    with torch.device("meta"):
        module = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        model = count_module(module, torch.empty(16, 32))
    assert model.counted is not None
    assert model.counted.flops_per_sample == 2 * (32 * 64 + 64 * 8)
    assert saved(model, 16) == 16 * 4 * (32 + 64), "the input, and ReLU's output which the last layer shares"


def test_a_script_that_times_its_gpu_is_found(tmp_path: Path) -> None:
    script = tmp_path / "timed.py"
    script.write_text(
        """
import torch
model = torch.nn.Linear(32, 8).cuda()
side, started, ended = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
started.record()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    x = torch.randn(4, 32).pin_memory().to("cuda", non_blocking=True)
ended.record()
while not ended.query():
    pass
assert torch.cuda.get_device_capability() >= (7, 0) and started.elapsed_time(ended) >= 0
model(x).sum().backward()
"""
    )
    assert find_model((str(script),)).parameters == 32 * 8 + 8


def test_autocast_keeps_what_it_was_seen_to_keep_on_a_gpu() -> None:
    # saved-tensor hooks on an H100 (torch 2.11) found 5,481,832,644 bytes in this script's step, of them 2,472,607,748
    # outside of the model: the loss, six bytes for each logit
    model = find_model((str(Path(__file__).parents[2] / "benchmarks" / "device_timed.py"),))
    assert model.counted is not None and model.counted.batch == 8
    low = saved(model, 8) * model.counted.low_precision_share + model.counted.low_precision_copies_bytes
    assert low == pytest.approx(5_481_832_644, rel=0.001)
    assert low < saved(model, 8)


LOSS = """
import torch
from torch.nn import functional
head = torch.nn.Linear(32, 50257, bias=False)
x, y = torch.rand(64, 32), torch.randint(50257, (64,))
{loss}
loss.backward()
"""
INSIDE = "with torch.autocast('cuda', torch.bfloat16):\n    loss = functional.cross_entropy(head(x){cast}, y)"
AFTER = "with torch.autocast('cuda', torch.bfloat16):\n    z = head(x)\nloss = functional.cross_entropy(z{cast}, y)"


@pytest.mark.parametrize(
    ("loss", "bytes_per_logit", "held"),
    [
        (INSIDE.format(cast=""), 6, 0),  # log-probabilities in bf16, and their copy in float32
        (INSIDE.format(cast=".float()"), 4, 0),
        (AFTER.format(cast=""), 2, 4),  # a loss in bf16; the variable holds the logits
        (AFTER.format(cast=".float()"), 4, 4),
        ("loss = functional.cross_entropy(head(x), y)", 4, 0),
    ],
)
def test_a_loss_at_gpt2s_vocabulary_is_counted_as_it_is_written(
    tmp_path: Path, loss: str, bytes_per_logit: float, held: float
) -> None:
    counted = find_model(write(tmp_path, LOSS.format(loss=loss))).counted
    assert counted is not None
    whole = counted.activation_fixed_bytes + counted.activation_bytes_per_sample * 64
    logits = 64 * 50257
    assert whole * counted.low_precision_share / logits == pytest.approx(bytes_per_logit, rel=0.01)
    assert counted.held_bytes_per_sample * 64 / logits == pytest.approx(held, abs=0.01), "in float32, as it was run"


@pytest.mark.parametrize(
    ("region", "gpu", "precision"),
    [
        ("torch.autocast('cuda', torch.bfloat16)", "h100", "bf16-autocast"),
        ("torch.autocast('cuda')", "h100", "fp16-autocast"),
        ("torch.autocast('cuda', torch.bfloat16)", "v100", "fp16-mixed"),  # which has no bf16
        ("torch.autocast('cuda', enabled=False)", "h100", "bf16-mixed"),
    ],
)
def test_a_script_is_planned_in_the_precision_it_asks_for(
    tmp_path: Path, region: str, gpu: str, precision: str
) -> None:
    text = (
        f"import torch\nmodel = torch.nn.Linear(4, 1)\nwith {region}:\n    model(torch.rand(2, 4)).sum().backward()\n"
    )
    assert request_of(Options(script=write(tmp_path, text), gpu=gpu), tmp_path).precision == precision


def test_the_cpus_autocast_keeps_four_bytes_a_logit_and_cudas_emulation_six() -> None:
    head, x, y = torch.nn.Linear(32, 50257, bias=False), torch.rand(16, 32), torch.randint(50257, (16,))

    def loss() -> None:
        torch.nn.functional.cross_entropy(head(x), y)

    def on_cpu() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss()

    def as_on_cuda() -> None:
        with Autocast():
            loss()

    logits = 16 * 50257
    assert really_saved_bytes(loss, head.parameters()) / logits == pytest.approx(4, rel=0.01)
    assert really_saved_bytes(on_cpu, head.parameters()) / logits == pytest.approx(4, rel=0.01)
    assert really_saved_bytes(as_on_cuda, head.parameters()) / logits == pytest.approx(6, rel=0.01)


ACCUMULATING = """
import torch
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda", enabled={scaled})
for step in range(3):
    for micro in range(5):
        with model.no_sync():
            scaler.scale(model(torch.rand(4, 8)).mean() / 5).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
"""


@pytest.mark.parametrize("scaled", [True, False])
def test_micro_batches_of_a_step_are_told(tmp_path: Path, scaled: bool) -> None:
    model = find_model(write(tmp_path, ACCUMULATING.format(scaled=scaled)))
    assert model.counted is not None and (model.counted.batch, model.counted.micro_batches) == (4, 5)
    plan = make_plan(Request(model, known_device("a100"), 2))
    assert plan.layout is not None and (plan.layout.micro_batch, plan.layout.samples_per_step) == (4, 2 * 4 * 5)


def test_a_trainer_that_refuses_to_go_on_is_asked_for_its_micro_batches(tmp_path: Path) -> None:
    text = (
        "import torch\n"
        "class Arguments:\n    gradient_accumulation_steps = 6\n"
        "class Trainer:\n    args = Arguments()\n"
        "    def train(self):\n"
        "        loss = torch.nn.Linear(4, 1)(torch.rand(2, 4)).sum()\n        loss.backward()\n"
        "        raise ValueError('the loss must be on the original device')\n"
        "Trainer().train()\n"
    )
    model = find_model(write(tmp_path, text))
    assert model.counted is not None and model.counted.micro_batches == 6
    assert any("not followed to an optimizer step (ValueError: the loss must be" in note for note in model.notes)
    assert not any("up to its first optimizer step" in note for note in model.notes)


def test_two_losses_of_one_forward_pass_are_one_micro_batch(tmp_path: Path) -> None:
    text = (
        "import torch\nmodel = torch.nn.Linear(4, 2)\nopt = torch.optim.SGD(model.parameters(), lr=1)\n"
        "out = model(torch.rand(3, 4))\nout[:, 0].sum().backward(retain_graph=True)\nout[:, 1].sum().backward()\n"
        "opt.step()\n"
    )
    counted = find_model(write(tmp_path, text)).counted
    assert counted is not None and counted.micro_batches == 1


def test_a_script_that_fails_before_its_step_keeps_what_was_counted(tmp_path: Path) -> None:
    text = (
        "import torch\nmodel = torch.nn.Linear(4, 1)\nmodel(torch.rand(2, 4)).sum().backward()\nraise OSError('no')\n"
    )
    model = find_model(write(tmp_path, text))
    assert model.parameters == 5
    assert any("not followed to an optimizer step" in note for note in model.notes)
