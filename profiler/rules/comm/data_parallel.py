"""comm/data-parallel."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity
from profiler.rules.evidence import step_ms


class DataParallelInUse(Rule):
    """One process drives all GPUs through `DataParallel`.

    ## Why it is slow
    Every forward copies the whole model to each GPU, scatters the batch from one of them and gathers the outputs
    there; Python threads of one process launch all kernels under one lock; gradients are summed on one GPU after
    backward instead of behind it.

    ## Evidence
    A model was wrapped in `torch.nn.DataParallel` and the training's device is a GPU. The gain was not measured.

    ## Fix
    One process per GPU under `torchrun`, and DistributedDataParallel.

    ## Gain
    Not promised: it was not measured.

    ## Reference
    torch.nn.DataParallel, which recommends DistributedDataParallel even on one machine.
    """

    id = "comm/data-parallel"
    bottleneck = Bottleneck.COMMUNICATION
    needs_device_times = False

    def check(self, facts: Facts) -> Outcome:
        """Say that there is a better way."""
        if "data_parallel" not in facts.settings.values or facts.machine.device == "cpu":
            return None
        return self.finding(
            title="DataParallel copies the model to every GPU in each forward",
            why=(
                "One process drives all GPUs: it replicates the parameters, scatters the batch and gathers the "
                "outputs in every step, under one interpreter lock."
            ),
            evidence={"step_ms": step_ms(facts)},
            fix=Fix.at(
                facts.settings.sites.get("data_parallel"),
                "Start one process per GPU with torchrun and wrap the model in DistributedDataParallel.",
                _CODE,
            ),
            severity=Severity.WARNING,
        )


_CODE = """\
# torchrun --nproc-per-node auto train.py
torch.distributed.init_process_group("nccl")
local_rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local_rank)
model = DistributedDataParallel(model.cuda(), device_ids=[local_rank])"""
