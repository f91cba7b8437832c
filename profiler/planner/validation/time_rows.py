"""Published times, utilisations and costs."""

from __future__ import annotations

from profiler.planner.activations import FULL
from profiler.planner.architecture import Transformer, transformer, transformer_model
from profiler.planner.catalogue import known_device, known_model
from profiler.planner.efficiency import given_tflops
from profiler.planner.flops import (
    attention_flops_per_token,
    megatron_days,
    megatron_flops_per_step,
    model_flops_per_unit,
    parameter_flops_per_token,
    recompute_factor,
    selective_flops_per_step,
)
from profiler.planner.plan import Request, make_plan
from profiler.planner.quantity import DAY_S, HOUR_S
from profiler.planner.scaling import cost_table, optimal_tokens
from profiler.planner.validation.rows import Row, Section

A100, H100 = 312e12, 989.5e12
SHAPES = {
    "125m": (12, 768), "1b": (24, 2048), "7b": (32, 4096), "13b": (40, 5120), "30b": (48, 7168), "70b": (80, 8192),
}  # fmt: skip

MEGATRON_TABLE = (
    # scheme, billions of parameters, devices, TFLOP/s per device, days for 300e9 tokens
    ("ZeRO-3", 174.6, 384, 144, 90), ("ZeRO-3", 174.6, 768, 88, 74), ("ZeRO-3", 174.6, 1536, 44, 74),
    ("ZeRO-3", 529.6, 640, 138, 169), ("ZeRO-3", 529.6, 1120, 98, 137), ("ZeRO-3", 529.6, 2240, 48, 140),
    ("PTD", 174.6, 384, 153, 84), ("PTD", 174.6, 768, 149, 43), ("PTD", 174.6, 1536, 141, 23),
    ("PTD", 529.6, 560, 171, 156), ("PTD", 529.6, 1120, 167, 80), ("PTD", 529.6, 2240, 159, 42),
)  # fmt: skip

LLM_FOUNDRY = (
    # model, sequence, devices, device's peak, tokens per second in all, published MFU %
    ("70b", 2048, 512, "H100", 515636, 41.25), ("30b", 2048, 8, "H100", 16022, 38.11),
    ("7b", 2048, 8, "H100", 85144, 46.44), ("1b", 2048, 128, "H100", 5647854, 40.6),
    ("70b", 2048, 32, "A100-80", 11962, 48.56), ("7b", 65536, 8, "A100-80", 8108, 46.97),
    ("125m", 2048, 8, "A100-80", 1142641, 44.79), ("13b", 2048, 32, "A100-40", 63946, 52.62),
)  # fmt: skip

KORTHIKANTI = (
    # name, layers, hidden, heads, batch, seconds per iteration, devices, MFU %, HFU %
    ("22B", 48, 6144, 64, 4, 1.10, 8, 41.5, 43.7), ("175B", 96, 12288, 96, 64, 13.75, 64, 51.4, 52.8),
    ("530B", 105, 20480, 128, 280, 37.83, 280, 56.0, 57.0), ("1T", 128, 25600, 160, 512, 71.49, 512, 56.3, 57.0),
)  # fmt: skip


def sections() -> list[Section]:
    """All sections of time and cost."""
    return [
        _gpt3(),
        _megatron(),
        _megatron_table(),
        _mtnlg(),
        _korthikanti(),
        _palm(),
        _llama(),
        _foundry(),
        _small(),
        _costs(),
    ]


def _one_device_years(device: str, tflops: float, tokens: float) -> tuple[float, float]:
    plan = make_plan(
        Request(
            known_model("gpt3-175b"),
            known_device(device),
            precision="fp16-mixed",
            units=tokens,
            efficiency=given_tflops(tflops, None),
        ),
        count_devices=False,
    )
    assert plan.time.years is not None and plan.cost.usd is not None
    return plan.time.years, plan.cost.usd


def _gpt3_flops(parameters: float) -> float:
    return parameter_flops_per_token(parameters, parameters) * 300e9 / 1e23


def _gpt3() -> Section:
    years, usd = _one_device_years("v100", 28, 300e9)
    rtx = _one_device_years("rtx-8000", 15, 300e9)[0]
    fewer = _one_device_years("v100", 28, 100e9)[0]
    return Section(
        "GPT-3 on one device",
        "3.14e23 FLOPs are 6ND at 174.6B parameters and 300B tokens. Lambda's 28 TFLOP/s for a V100 is "
        "neither its fp32 "
        "nor its tensor peak, so it is passed. With 100B tokens, as it is often retold, a V100 needs 118 "
        "years, not 355.",
        (
            Row("V100 at 28 TFLOP/s, 300B tokens", 355, years, "years", 0.0029, "text"),
            Row("V100 at 28 TFLOP/s, 100B tokens", 118, fewer, "years", 0.01, "computed"),
            Row("RTX 8000 at 15 TFLOP/s, 300B tokens", 665, rtx, "years", 0.0031, "text"),
            Row("FLOPs, 6ND at 175e9 and 300e9", 3.15, _gpt3_flops(175e9), "1e23", 0.001, "computed"),
            Row("FLOPs, 6ND at 174.6e9 and 300e9", 3.14, _gpt3_flops(174.6e9), "1e23", 0.002, "text"),
            Row("its cost at $1.50 an hour", 4.6, usd / 1e6, "$M", 0.02, "text"),
        ),
    )


def _megatron() -> Section:
    gpt3 = megatron_days(175e9, 300e9, 1024, 140e12)
    trillion = megatron_days(1.008e12, 450e9, 3072, 163e12)
    return Section(
        "Megatron-LM, end to end",
        "8·T·P/(n·X): full recomputation, attention left out (Narayanan et al. 2021, section 5.1).",
        (
            Row("175B, 300B tokens, 1,024 A100 at 140 TFLOP/s", 34, gpt3, "days", 0.01, "computed"),
            Row("1T, 450B tokens, 3,072 A100 at 163 TFLOP/s", 84, trillion, "days", 0.01, "computed"),
        ),
    )


def _megatron_table() -> Section:
    shapes = {174.6: known_model("gpt3-175b").shape, 529.6: known_model("mt-nlg-530b").shape}
    rows = []
    for scheme, billions, devices, tflops, days in MEGATRON_TABLE:
        shape = shapes[billions]
        assert shape is not None
        flops = megatron_flops_per_step(shape, 1) / shape.sequence * 300e9
        computed = flops / (devices * tflops * 1e12) / DAY_S
        rows.append(
            Row(f"{scheme}, {billions}B, {devices} devices at {tflops} TFLOP/s", days, computed, "days", 0.05, "source")
        )
    for scheme, billions, devices, tflops, days in MEGATRON_TABLE:
        short = megatron_days(billions * 1e9, 300e9, devices, tflops * 1e12)
        what = f"by 8TP/nX: {scheme}, {billions}B, {devices} devices at {tflops} TFLOP/s"
        rows.append(Row(what, days, short, "days", 0.05, "source"))
    return Section(
        "Megatron-LM's table 2: days for 300B tokens",
        "From 96·B·s·l·h²(1 + s/6h + V/16lh); the shorter 8TP/nX gives 1.4 to 4.3 % less, since it leaves "
        "out attention and "
        "logits. Published days are rounded to whole ones.",
        tuple(rows),
    )


def _mtnlg() -> Section:
    shape = known_model("mt-nlg-530b").shape
    assert shape is not None
    flops = megatron_flops_per_step(shape, 1920)
    rows = []
    for devices, seconds, tflops in ((2240, 60.1, 126), (2800, 50.2, 121), (3360, 44.4, 113)):
        rows.append(Row(f"{devices} A100", tflops, flops / (devices * seconds) / 1e12, "TFLOP/s", 0.01, "source"))
    return Section(
        "MT-NLG 530B, batch 1,920", "Achieved TFLOP/s per device from the published iteration times.", tuple(rows)
    )


def _korthikanti() -> Section:
    rows = []
    for name, layers, hidden, heads, batch, seconds, devices, mfu, hfu in KORTHIKANTI:
        shape = transformer(layers=layers, hidden=hidden, heads=heads, vocabulary=51200, sequence=2048)
        peak = devices * seconds * A100
        model = 100 * megatron_flops_per_step(shape, batch, recompute=False) / peak
        hardware = 100 * selective_flops_per_step(shape, batch) / peak
        rows.append(Row(f"{name}, MFU", mfu, model, "%", 0.01, "source"))
        rows.append(Row(f"{name}, HFU", hfu, hardware, "%", 0.01, "source"))
    return Section(
        "Korthikanti et al. 2022: MFU and HFU with selective recomputation",
        "The published percentages were read; iteration times, devices and batches are recalled, so the rows "
        "agree but prove "
        "less than others.",
        tuple(rows),
    )


def _palm() -> Section:
    model = known_model("palm-540b")
    assert model.shape is not None
    flops = 6 * model.parameters + attention_flops_per_token(model.shape)
    mfu = 100 * 238.3e3 * flops / (6144 * 275e12)
    factor = float(recompute_factor(model, FULL, attention=True))
    return Section(
        "PaLM 540B",
        "6N + 12LHQT at 238.3k tokens/s (recalled) on 6,144 TPU v4; HFU with full recomputation.",
        (
            Row("MFU", 46.2, mfu, "%", 0.01, "text"),
            Row(
                "HFU, were all repeated",
                57.8,
                mfu * factor,
                "%",
                0.01,
                "text",
                "the published HFU is 1.25 times the MFU, as if three quarters of the forward pass were repeated; the "
                "plan knows three kinds: none, that of attention, that of everything",
            ),
        ),
    )


def _llama() -> Section:
    seconds = 1.4e12 / (380 * 2048)
    rows = [
        Row("65B: days at 380 tokens/s per GPU on 2,048 A100", 20.8, seconds / DAY_S, "days", 0.01, "source"),
        Row("65B: GPU-hours at that rate", 1022362, seconds / HOUR_S * 2048, "h", 0.002, "source"),
    ]
    for key, tokens, hours in (
        ("7b", 1e12, 82432),
        ("13b", 1e12, 135168),
        ("33b", 1.4e12, 530432),
        ("65b", 1.4e12, 1022362),
    ):
        model = known_model(f"llama-{key}")
        flops = model_flops_per_unit(model, attention=True)
        assert flops is not None
        # one MFU for all four: that of the 65B's published throughput
        own = model_flops_per_unit(known_model("llama-65b"), attention=True)
        assert own is not None
        mfu = 380 * own / A100
        computed = flops * tokens / (A100 * mfu) / HOUR_S
        apart = abs(computed / hours - 1) > 0.05
        why = (
            f"its published hours imply an MFU of {100 * mfu * computed / hours:.1f} %: one run's utilisation is not "
            "another's, and a plan's efficiency is a range for that reason"
            if apart
            else ""
        )
        rows.append(
            Row(
                f"{key.upper()}: GPU-hours at the 65B's MFU of {100 * mfu:.1f} %",
                hours,
                computed,
                "h",
                0.05,
                "source",
                why,
            )
        )
    return Section(
        "LLaMA's GPU-hours",
        "Touvron et al. 2023, table 15. The first two rows use the published throughput; the others ask how "
        "far one MFU carries.",
        tuple(rows),
    )


def foundry_shape(size: str, sequence: int) -> Transformer:
    """An MPT shape of llm-foundry's table."""
    layers, hidden = SHAPES[size]
    heads = max(1, hidden // 128) if size != "125m" else 12
    return transformer(
        layers=layers,
        hidden=hidden,
        heads=heads,
        vocabulary=50368,
        sequence=sequence,
        learned_positions=True,
        biases=False,
    )


def _foundry() -> Section:
    rows = []
    for size, sequence, devices, card, rate, mfu in LLM_FOUNDRY:
        shape = foundry_shape(size, sequence)
        model = transformer_model(size, shape, "llm-foundry")
        flops = model_flops_per_unit(model, attention=True)
        assert flops is not None
        peak = H100 if card == "H100" else A100
        rows.append(
            Row(
                f"{size}, {sequence} tokens, {devices} x {card}",
                mfu,
                100 * rate * flops / (devices * peak),
                "% MFU",
                0.02,
                "source",
            )
        )
        if (size, devices) == ("30b", 8):
            hfu = 100 * rate * flops / (devices * peak) * float(recompute_factor(model, FULL, attention=True))
            rows.append(Row(f"{size}, {sequence} tokens, {devices} x {card}, HFU", 50.82, hfu, "% HFU", 0.02, "source"))
    return Section(
        "llm-foundry's throughput table",
        "MFU from the published tokens per second and 6N + 12LHQT; peaks: A100 312, H100 989.5 TFLOP/s.",
        tuple(rows),
    )


def _small() -> Section:
    model = known_model("gpt2")
    flops = model_flops_per_unit(model, attention=True)
    assert flops is not None
    tokens = 600000 * 480 * 1024
    four_days = 100 * tokens * flops / (4 * DAY_S * 8 * A100)
    return Section(
        "nanoGPT and Chinchilla",
        "GPT-2 124M: 600,000 steps of 480 sequences on 8 A100 40 GB in about 4 days. Chinchilla: 20 tokens "
        "per parameter.",
        (
            Row("GPT-2 124M: tokens of the run", 294.9, tokens / 1e9, "1e9", 0.001, "source"),
            Row("GPT-2 124M: MFU that 4 days imply", 29, four_days, "%", 0.03, "computed"),
            Row("Chinchilla 70B: tokens", 1.4, optimal_tokens(70e9) / 1e12, "1e12", 0.001, "computed"),
            Row("Chinchilla 70B: FLOPs", 5.88, 6 * 70e9 * optimal_tokens(70e9) / 1e23, "1e23", 0.001, "computed"),
            Row(
                "Llama 3.1 405B: MFU of its 30.84M H100-hours", 40.5,
                100 * 6 * 405e9 * 15.6e12 / (30.84e6 * HOUR_S * H100), "%", 0.06, "recalled",
                "hours of the whole job hold failures, restarts and evaluation, the reported 38 to 43 % only "
                "productive "
                "steps: their quotient, 0.85, is the goodput, which the plan keeps as a factor of its own (--goodput)",
            ),
        ),
    )  # fmt: skip


def _costs() -> Section:
    implied = (21, 26, 34, 40, 43.5, 48)
    rows = tuple(
        Row(f"{row.model}, {row.days:g} days", row.published_usd / 1e3, row.computed_usd / 1e3, "$k", 0.15, "source")
        for row in cost_table()
    ) + tuple(
        Row(f"{row.model}, MFU that its days imply", share, 100 * row.implied_mfu, "%", 0.03, "computed")
        for row, share in zip(cost_table(), implied, strict=True)
    )
    return Section(
        "Training costs of 2022, as the book's first chapter plots them",
        "days · 24 · 256 devices · $2 against published, rounded costs. No single MFU gives the days: "
        "6·N·20N implies 21 to 48 %.",
        rows,
    )
