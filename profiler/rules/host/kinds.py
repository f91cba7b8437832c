"""Kinds of Python lines that cost on the training thread, and what to do about each.

In:  a line that the sampler saw.
Out: its `Kind`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from profiler.analysis.facts import LineTime
from profiler.rules.base import Bottleneck

_LOG_LESS = {
    "transformers": 'TrainingArguments(logging_steps=50, report_to="none")',
    "lightning": "Trainer(log_every_n_steps=50)",
}
_EVERY = "if step % 50 == 0:  # step: your loop's counter\n    {source}"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a line does, as far as its text and the function that ran under it tell."""

    does: str  # completes "the line …"
    summary: str  # what to change, one imperative sentence
    code: str  # to paste; `{source}` is the user's line
    least: float  # at least this share of the line's time goes
    most: float = 1.0  # and at most this
    leaf: str = r"(?!)"  # pattern of the function that ran
    source: str = r"(?!)"  # pattern of the line's text
    everywhere: bool = True  # told from the model's arithmetic, and so named in forward and optimizer too
    bottleneck: Bottleneck = Bottleneck.HOST_OVERHEAD
    rule: str = "host/python-line"  # the rule that speaks of it
    functions: bool = False  # the name of the function that holds the line may tell as well
    arguments: Mapping[str, str] = field(default_factory=dict)  # the trainer's own way, by framework

    def is_of(self, line: LineTime) -> bool:
        """Whether the line is of this kind."""
        texts = [_without_comment(line.source), *([f"{line.site.function}("] if self.functions else [])]
        return bool(re.search(self.leaf, line.leaf)) or any(re.search(self.source, text) for text in texts)


CLIPS = (  # a gradient's norm, or a gradient scaled by itself
    r"\.grad\b[^=]*\.(norm|mul_|div_|clamp_|pow|square|abs|sum|copy_)\(|\b(norm|vector_norm)\([^)]*\.grad\b|"
    r"\bclip_coef"
)

KINDS = (
    Kind(
        "clips gradients",
        "Clip all gradients in one call.",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)",
        0.2,
        source=CLIPS,
        everywhere=False,
        bottleneck=Bottleneck.OPTIMIZER,
        rule="optimizer/clip-by-loop",
    ),
    Kind(
        "sleeps",
        "Remove the sleep.",
        "# delete this line:\n# {source}",
        0.97,
        source=r"\bsleep\(",
    ),
    Kind(
        "draws a progress bar",
        "Let the bar redraw once a second, or every 50th step.",
        "bar = tqdm(loader, mininterval=1.0)  # and set_postfix(..., refresh=False)\n" + _EVERY,
        0.85,
        leaf=r"^(tqdm|rich|alive_progress)\b",
        source=r"\btqdm\b|\.set_postfix|\.set_description|\b(progress|bar|pbar)\w*\.(update|advance)\(",
        rule="host/progress-bar",
        arguments={
            "transformers": "TrainingArguments(disable_tqdm=True)",
            "lightning": "TQDMProgressBar(refresh_rate=50)  # in Trainer(callbacks=[...])",
        },
    ),
    Kind(
        "logs",
        "Log every 50th step.",
        _EVERY,
        0.95,
        leaf=r"^(logging|wandb|mlflow|tensorboard|torch\.utils\.tensorboard|loguru|neptune|comet_ml)\b",
        source=r"\b(log|logger|logging)\.(debug|info|warning|error|log)\(|\.add_(scalar|histogram|image)s?\(|\bwandb\.|\bmlflow\.",
        rule="host/logging",
        arguments=_LOG_LESS,
    ),
    Kind(
        "writes or encodes text and files",
        "Do it every 50th step, or once after the loop.",
        _EVERY,
        0.95,
        leaf=r"^(json|pickle|yaml|csv|zipfile|gzip|codecs|io)\b|^torch\.(serialization|save)|JSONEncoder",
        source=r"\b(json|pickle|yaml|csv)\.\w+\(|\b(torch|np|numpy)\.save\w*\(|\bopen\(|\.(write|writerow|flush|to_csv)\(",
        rule="host/logging",
        arguments=_LOG_LESS,
    ),
    Kind(
        "prints",
        "Print every 50th step.",
        _EVERY,
        0.95,
        source=r"\bprint\(",
        rule="host/logging",
        arguments=_LOG_LESS,
    ),
    Kind(
        "averages weights tensor by tensor",
        "Update all of them in one call.",
        "# once, before the loop:\n"
        "update = torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)  # your decay\n"
        "averages, weights = [*ema.parameters()], [*model.parameters()]\n"
        "# in the loop, instead of {source}\n"
        "update(averages, weights, None)",
        0.38,
        most=0.9,
        source=r"\b\w*(ema|avg|average|shadow|teacher|target|slow)\w*(\[[^\]]*\])?(\.data)?\.(mul_|lerp_|copy_)\(|\.mul_\(.*\)\.add_\(|\.lerp_\(",
        everywhere=False,
        rule="host/ema-loop",
        arguments={"lightning": "WeightAveraging(avg_fn=get_ema_avg_fn(0.999))  # in Trainer(callbacks=[...])"},
    ),
    Kind(
        "copies objects in Python",
        "Update the copy in place, all tensors in one call.",
        "# once, before the loop:\n"
        "average = torch.optim.swa_utils.AveragedModel(\n"
        "    model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)\n"
        ")\n"
        "# in the loop, instead of {source}\n"
        "average.update_parameters(model)",
        0.75,
        leaf=r"^copy\b|^copy\.",
        source=r"\bdeepcopy\(|\bcopy\.copy\(",
        rule="host/deepcopy",
    ),
    Kind(
        "computes metrics",
        "Keep the outputs and compute the metric every 50th step, or once an epoch.",
        _EVERY,
        0.95,
        leaf=r"^(sklearn|torchmetrics|scipy|pandas)\b",
        source=r"\w+_score\(|\bconfusion_matrix\(|\broc_\w+\(|\bclassification_report\(|\bmetrics?\.\w+\(",
        rule="host/metrics",
        functions=True,
        arguments={"lightning": "self.log(..., on_step=False, on_epoch=True)"},
    ),
    Kind(
        "collects garbage or empties a cache",
        "Remove it: memory is reused without it.",
        "# delete this line:\n# {source}",
        0.90,
        source=r"\bgc\.collect\(|\bempty_cache\(",
    ),
    Kind(
        "talks to the network or to another process",
        "Do it every 50th step, or from another thread.",
        _EVERY,
        0.95,
        leaf=r"^(requests|urllib3?|socket|http|ssl|subprocess|paramiko|boto3|botocore|aiohttp|httpx)\b",
        source=r"\b(requests|urllib|socket|subprocess|httpx)\.\w+",
    ),
    Kind(
        "makes the batch on the training thread",
        "Make batches in a DataLoader's workers.",
        "class Batches(torch.utils.data.IterableDataset):\n"
        "    def __iter__(self):\n"
        "        while True:\n"
        "            yield make_batch()  # what this line does; seed it by get_worker_info().id\n\n"
        "loader = torch.utils.data.DataLoader(Batches(), batch_size=None, num_workers=2)",
        0.5,
        source=r"\b(get|next|make|load|sample|build|prepare)_\w*batch\w*\(|\bnext\(",
        everywhere=False,
        bottleneck=Bottleneck.DATA_PREPROCESSING,
    ),
    Kind(
        "turns tensors into Python numbers",
        "Keep it a tensor, and turn it into numbers every 50th step.",
        "# until then keep tensors, as in total += loss.detach()\n" + _EVERY,
        0.7,
        source=r"\.(item|tolist|cpu|numpy)\(\)",
        everywhere=False,
    ),
)
PLAIN = Kind(
    "runs Python on the training thread",
    "Move it out of the loop, or do it every 50th step.",
    _EVERY,
    0.7,
    everywhere=False,
)
MAKES_A_VALUE = Kind(
    "runs Python on the training thread",
    "Compute it for the whole batch at once, by tensor operations in place of a loop, or in a DataLoader's workers; "
    "what is only looked at, in every 50th step.",
    "# for all items at once; what is only looked at, in every 50th step:\n# {source}",
    0.7,
    everywhere=False,
)
MAKES_BATCHES = next(kind for kind in KINDS if kind.bottleneck is Bottleneck.DATA_PREPROCESSING)


def kind_of(line: LineTime) -> Kind:
    """What the line does; `PLAIN` or `MAKES_A_VALUE` where neither its text nor its function tells."""
    by_text = next((kind for kind in KINDS if kind.is_of(line)), PLAIN)
    if by_text is PLAIN and re.search(MAKES_BATCHES.source, f"{line.site.function}("):
        return MAKES_BATCHES
    return MAKES_A_VALUE if by_text is PLAIN and _makes_a_value(line.source) else by_text


def _makes_a_value(source: str) -> bool:
    """Whether the line is an assignment to a name or an element, or returns something; what it adds to may be a log."""
    try:
        statements = ast.parse(source.strip()).body
    except (SyntaxError, ValueError):
        return False
    return len(statements) == 1 and isinstance(statements[0], ast.Assign | ast.AnnAssign | ast.Return)


def _without_comment(source: str) -> str:
    return source.split("#", 1)[0]
