"""Cure the example one step at a time, and write what was found, promised and measured into its README.

python examples/gpt2/table.py             # a few minutes, on a machine that does nothing else
python examples/gpt2/table.py --print     # without writing
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CURES = [  # what the first finding is to be about, and what is changed then
    ("host/python-line", "no `gc.collect()` in the step"),
    ("host/logging", "histograms of the weights every 100th step"),
    ("host/python-line", "text is encoded once, and batches are cut from one tensor"),
    ("host/metrics", "guesses are ranked every 100th step"),
    ("compute/unfused-attention", "`scaled_dot_product_attention`"),
    ("host/deepcopy", "a copy of the model every 100th step"),
    ("compute/small-kernels", "`gelu` in one operator"),
    ("optimizer/for-loop", "`AdamW(..., fused=True)`"),
]
BEGIN, END = "<!-- written by table.py -->", "<!-- end of what table.py wrote -->"


def profile(cured: int) -> dict:
    """The summary of a run in which so many are cured."""
    with tempfile.TemporaryDirectory() as folder:
        prof = [sys.executable, "-m", "profiler.cli.main", "attach", "--quiet", "-o", folder, "--name", "run"]
        subprocess.run([*prof, str(HERE / "train.py"), "--cured", str(cured)], check=True, stdout=subprocess.DEVNULL)
        return json.loads((Path(folder) / "run" / "summary.json").read_text())


def promising(summary: dict) -> dict | None:
    """The first finding that promises something."""
    return next((finding for finding in summary["findings"] if finding["gain"]), None)


def rows(summaries: list[dict]) -> list[str]:
    """One for each state of the example, from all slow to all cured."""
    lines = ["| cured | step | verdict | first finding | promised | measured | the cure |", "|" + " --- |" * 7]
    for number, summary in enumerate(summaries):
        step_ms, verdict = summary["steps"]["mean_ms"], summary["verdict"]["bottleneck"]
        finding = promising(summary)
        if number == len(CURES) or finding is None:
            lines.append(f"| {number} | {step_ms:.1f} ms | {verdict} | | | | |")
            continue
        gain = finding["gain"]
        lines.append(
            f"| {number} | {step_ms:.1f} ms | {verdict} | `{finding['rule']}` | "
            f"{gain['step_ms_low']:.1f} to {gain['step_ms_high']:.1f} ms | "
            f"{summaries[number + 1]['steps']['mean_ms']:.1f} ms | {CURES[number][1]} |"
        )
    return lines


def main() -> None:
    summaries = []
    for number in range(len(CURES) + 1):
        summaries.append(profile(number))
        print(f"{number} cured: {summaries[-1]['verdict']['summary']}", flush=True)
    wrong = [
        f"with {number} cured the first finding is {finding['rule'] if finding else 'none'}, not {rule}"
        for number, (rule, _) in enumerate(CURES)
        if (finding := promising(summaries[number])) is None or finding["rule"] != rule
    ]
    before, after = summaries[0]["steps"]["mean_ms"], summaries[-1]["steps"]["mean_ms"]
    text = "\n".join(
        [*rows(summaries), "", f"From {before:.0f} to {after:.0f} ms a step: {before / after:.1f} times as fast."]
    )
    print(text, *wrong, sep="\n")
    if "--print" not in sys.argv:
        readme = HERE / "README.md"
        head, rest = readme.read_text().split(BEGIN)
        readme.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
