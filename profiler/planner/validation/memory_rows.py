"""Published memory figures."""

from __future__ import annotations

from dataclasses import replace

from profiler.planner import activations
from profiler.planner.architecture import transformer
from profiler.planner.catalogue import known_device, known_model
from profiler.planner.estimators import accelerate_bytes, deepspeed_zero2, deepspeed_zero3
from profiler.planner.memory import zero_bytes_per_device
from profiler.planner.plan import Request, make_plan
from profiler.planner.quantity import GB, GIB, MIB
from profiler.planner.states import known_optimizer, known_precision, optimizer_bytes
from profiler.planner.validation.rows import Row, Section

ZERO_GRID = {
    # parameters, devices: GB per device under stages 1, 2, 3
    (7.5e9, 1): (120, 120, 120), (7.5e9, 4): (52.5, 41.25, 30), (7.5e9, 16): (35.6, 21.6, 7.5),
    (7.5e9, 64): (31.4, 16.6, 1.88), (7.5e9, 256): (30.4, 15.4, 0.47), (7.5e9, 1024): (30.1, 15.1, 0.12),
    (128e9, 1): (2048, 2048, 2048), (128e9, 4): (896, 704, 512), (128e9, 16): (608, 368, 128),
    (128e9, 64): (536, 284, 32), (128e9, 256): (518, 263, 8), (128e9, 1024): (513.5, 257.75, 2),
    (1e12, 1): (16000, 16000, 16000), (1e12, 4): (7000, 5500, 4000), (1e12, 16): (4750, 2875, 1000),
    (1e12, 64): (4187.5, 2218.75, 250), (1e12, 256): (4046.9, 2054.7, 62.5), (1e12, 1024): (4011.7, 2013.7, 15.6),
}  # fmt: skip

DEEPSPEED_ZERO3 = (
    # offload optimizer, offload parameters, zero_init: GiB on the GPU, GiB on the CPU
    (True, True, True, 0.12, 71.69),
    (True, True, False, 0.12, 127.45),
    (True, False, True, 0.78, 63.72),
    (True, False, False, 0.78, 127.45),
    (False, False, True, 6.09, 1.43),
    (False, False, False, 6.09, 127.45),
)


def sections() -> list[Section]:
    """All memory sections."""
    return [_states(), _bytes_per_parameter(), _zero(), _deepspeed(), _accelerate(), _activations(), _parameters()]


def _states() -> Section:
    plan = make_plan(Request(known_model("gpt3-175b"), known_device("a100-80gb"), precision="fp32", optimizer="adam"))
    memory = plan.memory
    assert memory.parameters is not None and memory.gradients is not None and memory.optimizer is not None
    states = memory.parameters + memory.optimizer
    mixed = make_plan(Request(known_model("gpt3-175b"), known_device("a100-80gb"))).memory
    assert mixed.parameters is not None and mixed.gradients is not None and mixed.optimizer is not None
    all_mixed = mixed.parameters + mixed.gradients + mixed.optimizer
    return Section(
        "GPT-3 175B, model states",
        "700 GB is parameters alone, 2,100 GB adds Adam's two moments and leaves gradients out, 2,800 GB has all. "
        "At 16 bytes per parameter either way, 80 GB cards must be at least 35, activations not counted.",
        (
            Row("parameters, fp32", 700, memory.parameters / GB, "GB", 0.001, "text"),
            Row("parameters + Adam's states, fp32", 2100, states / GB, "GB", 0.001, "computed"),
            Row("with gradients, fp32", 2800, (states + memory.gradients) / GB, "GB", 0.001, "computed"),
            Row("bf16-mixed, 16 bytes per parameter", 2800, all_mixed / GB, "GB", 0.001, "computed"),
        ),
    )


def _bytes_per_parameter() -> Section:
    rows = []
    for what, precision, optimizer, published, trust in (
        ("bf16-mixed, AdamW: 2 + 2 + 12 (ZeRO's K = 12)", "bf16-mixed", "adamw", 16, "computed"),
        ("the same with fp32 gradients", "bf16-mixed-fp32-grads", "adamw", 18, "source"),
        ("fp32, Adam", "fp32", "adam", 16, "computed"),
        ("autocast, AdamW: 4 + 4 + 8", "bf16-autocast", "adamw", 16, "computed"),
        ("llm-foundry's rule of thumb, GB of a cluster for each 1e9 parameters", "bf16-mixed", "adamw", 16, "text"),
    ):
        recipe = known_precision(precision)
        states = optimizer_bytes(known_optimizer(optimizer), recipe)
        computed = recipe.weight_bytes + recipe.gradient_bytes + states
        rows.append(Row(what, published, computed, "bytes", 0.001, trust))
    eight = optimizer_bytes(known_optimizer("adam8bit"), known_precision("fp32"))
    rows.append(Row("8-bit Adam, its states alone", 2, eight, "bytes", 0.001, "source"))
    least = next(count for count in range(1, 100) if zero_bytes_per_device(175e9, 3, count) <= 80e9)
    rows.append(
        Row("GPT-3's states on 80 GB cards under ZeRO-3: the least number", 35, least, "cards", 0.001, "computed")
    )
    return Section(
        "Bytes per parameter",
        "Weights, gradients and optimizer states together; activations, buffers and the context come on top.",
        tuple(rows),
    )


def _zero() -> Section:
    rows = []
    for (parameters, devices), published in ZERO_GRID.items():
        for stage, value in zip((1, 2, 3), published, strict=True):
            computed = zero_bytes_per_device(parameters, stage, devices) / GB
            name = f"{parameters / 1e9:g}B on {devices}, stage {stage}"
            digits = 0.5 * 10 ** -len(f"{value:g}".partition(".")[2]) / value  # half of the last printed digit
            rows.append(Row(name, value, computed, "GB", max(digits, 0.001), "computed"))
    return Section(
        "ZeRO's table: model states per device",
        "Stage 1: 4Ψ + 12Ψ/N, stage 2: 2Ψ + 14Ψ/N, stage 3: 16Ψ/N (Rajbhandari et al. 2019), to half of the "
        "last printed digit.",
        tuple(rows),
    )


def _deepspeed() -> Section:
    rows = []
    for offload, gpu in ((False, 15.93), (True, 5.31)):
        needs = deepspeed_zero2(2851e6, 8, offload=offload)
        name = f"ZeRO-2, offload {'cpu' if offload else 'none'}"
        rows.append(Row(f"{name}, GPU", gpu, needs.gpu_bytes / GIB, "GiB", 0.001, "source"))
        rows.append(Row(f"{name}, CPU", 127.45, needs.cpu_bytes / GIB, "GiB", 0.001, "source"))
    for optimizer, parameters, zero_init, gpu, cpu in DEEPSPEED_ZERO3:
        needs3 = deepspeed_zero3(
            2851e6, 32e6, 8, offload_optimizer=optimizer, offload_parameters=parameters, zero_init=zero_init
        )
        name = f"ZeRO-3, offload optimizer {optimizer}, parameters {parameters}, zero_init {zero_init}"
        rows.append(Row(f"{name}, GPU", gpu, needs3.gpu_bytes / GIB, "GiB", 0.02, "source"))
        rows.append(Row(f"{name}, CPU", cpu, needs3.cpu_bytes / GIB, "GiB", 0.005, "source"))
    return Section(
        "DeepSpeed's estimators",
        "2,851 M parameters, largest layer 32 M, 8 GPUs in one node; GiB. 0.12 and 0.78 GiB are printed with "
        "two digits.",
        tuple(rows),
    )


def _accelerate() -> Section:
    bert, resnet = known_model("bert-base-cased"), known_model("resnet50")
    bert_bytes, resnet_bytes = accelerate_bytes(bert.parameters), accelerate_bytes(resnet.parameters, resnet.buffers)
    return Section(
        "accelerate's estimate-memory",
        "fp32; training with Adam is four times the model. MiB and GiB, which accelerate writes as MB and GB.",
        (
            Row("bert-base-cased, model", 413.18, bert_bytes[0] / MIB, "MiB", 0.001, "source"),
            Row("bert-base-cased, training", 1.61, bert_bytes[1] / GIB, "GiB", 0.005, "source"),
            Row(
                "bert-base-cased, model, as another page of it shows", 418.18, bert_bytes[0] / MIB,
                "MiB", 0.001, "source",
                "accelerate's documentation shows both 413.18 and 418.18 MB; 413.18 is four bytes for each of the "
                "released checkpoint's 108,310,272 parameters, the other is probably a slip of a digit",
            ),
            Row("resnet50, model", 97.7, resnet_bytes[0] / MIB, "MiB", 0.001, "source"),
            Row("resnet50, training", 390.78, resnet_bytes[1] / MIB, "MiB", 0.001, "source"),
        ),
    )  # fmt: skip


def _activations() -> Section:
    gpt3 = known_model("gpt3-175b").shape
    mtnlg = known_model("mt-nlg-530b").shape
    gpt2 = known_model("gpt2-xl").shape
    llama = known_model("llama3-8b").shape
    assert gpt3 and mtnlg and gpt2 and llama
    sbh = gpt3.sequence * gpt3.hidden
    settings: tuple[tuple[str, float, dict[str, object]], ...] = (
        ("none: 34 + 5as/h", 114, {}),
        ("tensor 8: 10 + 24/t + 5as/ht", 23, {"tensor": 8}),
        ("tensor 8 + sequence", 14.25, {"tensor": 8, "sequence_parallel": True}),
        ("tensor 8 + selective: 10 + 24/t", 13, {"tensor": 8, "recompute": activations.SELECTIVE}),
        ("tensor 8 + sequence + selective: 34/t", 4.25,
         {"tensor": 8, "sequence_parallel": True, "recompute": activations.SELECTIVE}),
        ("full: 2", 2, {"recompute": activations.FULL}),
    )  # fmt: skip
    rows = [
        Row(
            f"GPT-3, {name}, per sbh", published,
            float(activations.layer_bytes(gpt3, micro_batch=1, **options)) / sbh, "bytes", 0.001, "computed",
        )
        for name, published, options in settings
    ]  # fmt: skip
    for name, shape, published in (("GPT-3", gpt3, 80), ("MT-NLG", mtnlg, 64)):
        core = activations.layer_bytes(shape, micro_batch=1) - activations.layer_bytes(
            shape, micro_batch=1, recompute=activations.SELECTIVE
        )
        per = float(core) / (shape.sequence * shape.hidden)
        rows.append(Row(f"{name}, attention's share 5as/h", published, per, "bytes per sbh", 0.001, "text"))
    long = replace(llama, sequence=32768)
    layer = float(activations.layer_bytes(long, micro_batch=1, flash=True)) / GIB
    rows.append(
        Row(
            "Llama 3.1 8B, one layer at 32,768 tokens", 7, layer, "GiB", 0.1, "source",
            "the published 7 GiB are 28 copies of the hidden state, the formula has 20.5. Counted on the meta "
            "device, the block of Hugging Face's transformers 5.24 keeps 24.6: each of its two RMSNorms keeps its "
            "input in fp32 and the normalised tensor, of which the formula has one copy in 16 bit. The other 3.4 "
            "were not found there and stay unexplained; blocks that repeat the key-value heads would keep 1.5 of "
            "them. For such a block let the script be counted",
        )
    )  # fmt: skip
    rows.append(
        Row(
            "Llama 3.1 8B, its 32 layers at 32,768 tokens", 224, layer * llama.layers, "GiB", 0.1, "source",
            "32 times the row above",
        )
    )  # fmt: skip
    checkpoints = float(activations.layer_bytes(long, micro_batch=1, recompute=activations.FULL)) * llama.layers / GIB
    rows.append(Row("Llama 3.1 8B, its 32 checkpoints", 8, checkpoints, "GiB", 0.001, "source"))
    whole = 12.0 * gpt2.hidden * 32 * 1024 * gpt2.layers * 2 / GB
    computed = float(activations.layer_bytes(gpt2, micro_batch=32, flash=True)) * gpt2.layers / GB
    rows.append(Row("GPT-2 1.5B, batch 32: ZeRO's 12·h·b·s·L elements", 60.4, whole, "GB", 0.001, "computed"))
    rows.append(
        Row(
            "GPT-2 1.5B, batch 32: the planner's own count", 60.4, computed, "GB", 0.1, "computed",
            f"ZeRO's paper counts 24 bytes per hidden element ({whole:.1f} GB); the planner counts Korthikanti's "
            "34, the "
            "more complete inventory (both inputs of the norms, the MLP's four-fold tensors, dropout masks)",
        )
    )  # fmt: skip
    return Section(
        "Activations per layer",
        "Korthikanti et al. 2022, 16 bit, s = 2048, h = 12,288, a = 96 where GPT-3 is named.",
        tuple(rows),
    )


MEGATRON_SHAPES = (
    # billions, layers, hidden, heads
    (1.7, 24, 2304, 24), (3.6, 30, 3072, 32), (7.5, 36, 4096, 32), (18.4, 40, 6144, 48), (39.1, 48, 8192, 64),
    (76.1, 60, 10240, 80), (145.6, 80, 12288, 96), (310.1, 96, 16384, 128), (529.6, 105, 20480, 128),
    (1008.0, 128, 25600, 160),
)  # fmt: skip


def _parameters() -> Section:
    rows = []
    for billions, layers, hidden, heads in MEGATRON_SHAPES:
        shape = transformer(layers=layers, hidden=hidden, heads=heads, vocabulary=51200, sequence=2048)
        tolerance = max(0.001, 0.05 / billions)  # half of the printed digit
        rows.append(Row(f"Megatron {billions}B", billions, shape.parameters / 1e9, "1e9", tolerance, "computed"))
    return Section(
        "Parameters from shapes",
        "P = 12lh²(1 + 13/12h + (V+s)/12lh) with V = 51,200 and s = 2048 (Narayanan et al. 2021, table 1).",
        tuple(rows),
    )
