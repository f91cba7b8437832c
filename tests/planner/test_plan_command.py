"""`prof plan` as people type it: the contract of its JSON, its words, its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from summaries import run_folder, summary

from profiler.cli.plan import command
from profiler.errors import ProfError

GPT3 = ["--model", "gpt3-175b", "--gpu", "a100-80gb", "--gpus", "1024", "--tokens", "300e9", "--strategy", "zero3"]
GPT = Path(__file__).parent / "scripts" / "gpt.py"
KEYS = {
    "memory": ["parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "buffers_bytes",
               "total_bytes", "per_device_bytes", "device_bytes", "fits", "least_devices"],
    "time": ["flops", "step_s", "seconds", "days", "years", "device_hours", "bound_by", "mfu", "hfu"],
    "cost": ["usd", "price_per_device_hour", "kwh"],
    "model": ["name", "parameters", "source"],
}  # fmt: skip


def plan(*arguments: str) -> dict[str, Any]:
    """The JSON object that the command prints."""
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.output)
    return value


@pytest.mark.parametrize(
    "arguments",
    [
        GPT3,
        ["--flops", "1e23", "--gpu", "h100"],
        ["--params", "7B", "--gpu", "h100"],
        ["--model", "sd-unet", "--gpu", "t4"],
    ],
)
def test_json_holds_every_key_of_the_contract_and_null_where_unknown(arguments: list[str]) -> None:
    value = plan(*arguments)
    assert value["schema_version"] == 1
    for part, keys in KEYS.items():
        assert set(keys) <= set(value[part]), part
    assert {"low", "high"} <= set(value["memory"]["per_device_bytes"])
    assert value["memory"]["fits"] in ("yes", "no", "unsure")
    assert value["time"]["bound_by"] in ("compute", "memory-bandwidth", "data-loading", "communication", None)
    assert all({"change", "fits", "days", "usd"} <= set(each) for each in value["alternatives"])
    assert value["assumptions"] and all(isinstance(each, str) for each in value["assumptions"])


def test_gpt3_in_the_issues_own_words() -> None:
    value = plan(*GPT3)
    assert value["model"]["parameters"] == 175e9
    assert value["memory"]["parameters_bytes"] == 350e9
    assert value["memory"]["optimizer_bytes"] == 2100e9
    assert value["time"]["days"] == pytest.approx(value["time"]["seconds"] / 86400)


def test_355_years_on_one_v100() -> None:
    value = plan("--flops", "3.14e23", "--gpu", "v100", "--achieved-tflops", "28", "--precision", "fp16-mixed")
    assert value["time"]["years"] == pytest.approx(355, abs=1)
    assert value["cost"]["usd"] == pytest.approx(4.6e6, rel=0.02)


@pytest.mark.parametrize(
    ("text", "tokens"), [("300e9", 300e9), ("300B", 300e9), ("0.3T", 300e9), ("300_000_000_000", 300e9)]
)
def test_tokens_are_written_as_people_write_them(text: str, tokens: float) -> None:
    value = plan("--params", "1B", "--gpu", "h100", "--tokens", text)
    # 6ND over half the H100's peak or so: the tokens can be read back from FLOPs
    assert value["time"]["flops"] == pytest.approx(6e9 * tokens)


def test_so_is_the_size_of_a_data_set() -> None:
    value = plan("--model", "gpt2", "--gpu", "h100", "--dataset-size", "1.2B", "--epochs", "2")
    assert value["time"]["steps"] == pytest.approx(2.4e9 / (480 * 1024))


def test_a_data_set_of_the_catalogue_is_a_length() -> None:
    value = plan("--model", "resnet50", "--gpu", "a100", "--dataset-size", "imagenet-1k", "--epochs", "90")
    assert value["time"]["steps"] == pytest.approx(1281167 * 90 / 256)


def test_a_measured_run_is_planned_from(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "my-run", summary())
    value = plan("--from", str(folder), "--gpus", "64", "--dataset-size", "1.2e9")
    assert value["time"]["steps"] == pytest.approx(1.2e9 / 4096)
    assert any("Time is scaled from my-run" in each for each in value["assumptions"])


def test_the_terminal_says_the_three_answers_and_what_was_assumed() -> None:
    text = " ".join(CliRunner().invoke(command, GPT3, catch_exceptions=False).output.split())
    for piece in (
        "Will it fit? Does not fit",
        "The cheapest way to make it surely fit: --tp 2 --sp",
        "How long? With --tp 2 --sp: ",
        "Not as asked; if it fitted, ",
        "One step, if it fitted",
        "What will it cost?",
        "Most useful change",
        "Assumed",
        "not measured",
    ):
        assert piece in text, piece


def test_a_plan_that_fits_is_told_plainly() -> None:
    text = CliRunner().invoke(command, ["--model", "gpt2", "--gpu", "h100"], catch_exceptions=False).output
    assert "Will it fit? Fits" in text and "if it fitted" not in text and "make it surely fit" not in text


def test_a_plan_that_does_not_fit_says_so_in_json_and_how_it_would() -> None:
    value = plan(*GPT3)
    way = value["memory"]["way_to_fit"]
    assert value["time"]["if_it_fitted"] and value["memory"]["fits"] == "no"
    assert way["fits"] == "yes" and way["days"] > value["time"]["days"]
    assert value["alternatives"][0] == way
    changed = plan(*GPT3, *way["change"].split())
    assert changed["memory"]["fits"] == "yes" and changed["time"]["days"] == pytest.approx(way["days"], rel=0.001)
    assert changed["memory"]["way_to_fit"] is None and not changed["time"]["if_it_fitted"]


def test_an_mfu_that_nobody_reached_is_called_absurd() -> None:
    told = {mfu: str(plan("--model", "gpt2", "--gpu", "h100", "--mfu", mfu)["assumptions"]) for mfu in ("0.5", "0.99")}
    assert "absurdly high" in told["0.99"] and "absurd" not in told["0.5"]


def test_a_measured_loader_is_shown_in_the_step(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", summary(wait_ms=50.0, workers=0, batch_ms=50.0))
    text = CliRunner().invoke(command, ["--from", str(folder)], catch_exceptions=False).output
    assert "data loading  50.0 ms" in text
    assert "Activations are what the run kept" in " ".join(text.split())


def test_a_data_loader_bounds_every_layout() -> None:
    value = plan("--model", "resnet50", "--gpu", "a100", "--gpus", "2", "--loader", "500")
    assert value["time"]["bound_by"] == "data-loading"
    assert value["time"]["samples_per_s"] == pytest.approx(1000)


def test_a_host_that_binds_is_called_computing_in_schema_1(tmp_path: Path) -> None:
    value = plan("--gpu", "h100", str(GPT))
    assert (value["time"]["bound_by"], value["time"]["binding_term"]) == ("compute", "host-overhead")


def test_a_budget_buys_a_chinchilla_optimal_model() -> None:
    value = plan("--budget", "1e6", "--gpu", "a100-80gb", "--mfu", "0.5")
    assert value["tokens"] == pytest.approx(20 * value["parameters"])
    assert 6 * value["parameters"] * value["tokens"] == pytest.approx(1e6 / 2 * 3600 * 156e12)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--gpu", "h100"], "nothing to plan"),
        (["--model", "gpt2"], "pass the device"),
        (["--model", "gpt2", "--params", "1e9", "--gpu", "h100"], "given twice"),
        (["--model", "gpt5000", "--gpu", "h100"], "no model called"),
        (["--model", "gpt2", "--gpu", "h100", "--tokens", "-5"], "no number above 0"),
        (["--model", "gpt2", "--gpu", "h100", "--tokens", "many"], "no number above 0"),
        (["--model", "gpt2", "--gpu", "h100", "--mfu", "30", "--achieved-tflops", "10"], "not both"),
        (["--model", "gpt2", "--gpu", "h100", "--achieved-tflops", "90000"], "absurd"),
        (["--model", "gpt2", "--gpu", "h100", "--achieved-tflops", "1200"], "dense peak in this precision is 989.5"),
        (["--model", "gpt2", "--gpu", "h100", "--achieved-tflops", "nan"], "absurd"),
        (["--model", "gpt2", "--gpu", "h100", "--gpus", "-3"], "absurd"),
        (["--model", "gpt2", "--gpu", "h100", "--gpus", "0"], "absurd"),
        (["--model", "gpt2", "--gpu", "h100", "--price", "nan"], "absurd"),
        (["--model", "gpt2", "--gpu", "h100", "--loader", "nan"], "absurd"),
        (["--budget", "1e6", "--gpu", "h100", "--mfu", "nan"], "absurd"),
        (["--gpu", "h100", "--tokens", "1e9", str(GPT)], "--dataset-size SAMPLES"),
        (["--model", "gpt2", "--gpu", "h100", "--price", "-3"], "absurd"),
        (["--model", "gpt2", "--gpu", "h100", "--epochs", "3"], "--epochs needs"),
        (["--model", "gpt2", "--gpu", "h100", "--seq-len", "0"], "absurd"),
        (["--model", "gpt2", "--gpu", "v100", "--precision", "bf16-mixed"], "has no bf16 arithmetic"),
        (["--model", "resnet50", "--gpu", "h100", "--tp", "2", "--gpus", "2"], "not known"),
        (["--params", "1e30", "--gpu", "h100"], "absurd"),
        (["--budget", "1e6", "--gpu", "h100", "--model", "gpt2"], "the model is given"),
        (["--budget", "1e6", "--gpu", "h100", "--html", "page.html"], "draws a plan"),
        (["--model", "gpt2", "--gpu", "h100", "--lora-rank", "9999"], "absurd"),
        (["--model", "resnet50", "--gpu", "h100", "--dataset-size", "c4"], "number of samples in C4 is not"),
    ],
)
def test_bad_input_gives_one_clear_sentence(arguments: list[str], reason: str) -> None:
    with pytest.raises(ProfError, match=reason) as error:
        CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert str(error.value).count("\n") == 0


def test_the_page_needs_no_network_and_escapes_what_users_named(tmp_path: Path) -> None:
    (tmp_path / "<img src=x>.json").write_text(
        json.dumps({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 100,
                    "_name_or_path": "<script>alert(1)</script>"}),
        encoding="utf-8",
    )  # fmt: skip
    page = tmp_path / "plan.html"
    arguments = ["--config", str(tmp_path / "<img src=x>.json"), "--gpu", "h100", "--gpus", "8", "--tokens", "1e9"]
    result = CliRunner().invoke(command, [*arguments, "--html", str(page)], catch_exceptions=False)
    assert result.exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text and "<img" not in text
    assert "http://" not in text.replace("http://www.w3.org", "") and 'src="' not in text and "<link" not in text
    assert len(text) < 2_000_000
    for piece in ("Will it fit?", 'data-chart="memory"', 'data-chart="growth"', "What was assumed", "GPT-70B"):
        assert piece in text, piece


def test_a_page_that_can_not_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProfError, match="can't be written"):
        CliRunner().invoke(
            command,
            ["--model", "gpt2", "--gpu", "h100", "--html", str(tmp_path / "no" / "p.html")],
            catch_exceptions=False,
        )
