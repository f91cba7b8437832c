"""Kinds of Python lines that cost on the training thread, and what to do about each.

In:  a line that the sampler saw.
Out: its `Kind`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from profiler.analysis.facts import LineTime
from profiler.rules.base import Bottleneck

_EVERY = "if step % 50 == 0:  # step: your loop's counter\n    {source}"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a line does, as far as its text and the function that ran under it tell."""

    does: str  # completes "the line …"
    summary: str  # what to change, one imperative sentence
    code: str  # to paste; `{source}` is the user's line
    least: float  # at least this share of the line's time goes
    leaf: str = r"(?!)"  # pattern of the function that ran
    source: str = r"(?!)"  # pattern of the line's text
    everywhere: bool = True  # told from the model's arithmetic, and so named in forward and optimizer too
    bottleneck: Bottleneck = Bottleneck.HOST_OVERHEAD

    def is_of(self, line: LineTime) -> bool:
        """Whether the line is of this kind."""
        return bool(re.search(self.leaf, line.leaf) or re.search(self.source, _without_comment(line.source)))


KINDS = (
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
        source=r"\btqdm\b|\.set_postfix|\.set_description",
    ),
    Kind(
        "logs",
        "Log every 50th step.",
        _EVERY,
        0.95,
        leaf=r"^(logging|wandb|mlflow|tensorboard|torch\.utils\.tensorboard|loguru|neptune|comet_ml)\b",
        source=r"\b(log|logger|logging)\.(debug|info|warning|error|log)\(|\.add_(scalar|histogram|image)s?\(|\bwandb\.|\bmlflow\.",
    ),
    Kind(
        "writes or encodes text and files",
        "Do it every 50th step, or once after the loop.",
        _EVERY,
        0.95,
        leaf=r"^(json|pickle|yaml|csv|zipfile|gzip|codecs|io)\b|^torch\.(serialization|save)|JSONEncoder",
        source=r"\b(json|pickle|yaml|csv)\.\w+\(|\b(torch|np|numpy)\.save\w*\(|\bopen\(|\.(write|writerow|flush|to_csv)\(",
    ),
    Kind(
        "prints",
        "Print every 50th step.",
        _EVERY,
        0.95,
        source=r"\bprint\(",
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
    ),
    Kind(
        "computes metrics",
        "Keep the outputs and compute the metric every 50th step, or once an epoch.",
        _EVERY,
        0.95,
        leaf=r"^(sklearn|torchmetrics|scipy|pandas)\b",
        source=r"\w+_score\(|\bconfusion_matrix\(|\broc_\w+\(|\bclassification_report\(|\bmetrics?\.\w+\(",
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
        "total += loss.detach()  # still a tensor\n" + _EVERY,
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
MAKES_BATCHES = next(kind for kind in KINDS if kind.bottleneck is Bottleneck.DATA_PREPROCESSING)


def kind_of(line: LineTime) -> Kind:
    """What the line does; `PLAIN` where neither its text nor its function tells."""
    return next(
        (kind for kind in KINDS if kind.is_of(line)),
        MAKES_BATCHES if re.search(MAKES_BATCHES.source, f"{line.site.function}(") else PLAIN,
    )


def _without_comment(source: str) -> str:
    return source.split("#", 1)[0]
