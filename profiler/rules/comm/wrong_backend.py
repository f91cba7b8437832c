"""comm/gloo-on-gpus."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity
from profiler.rules.evidence import step_ms


class GlooOnGpus(Rule):
    """GPUs exchange their gradients over gloo.

    ## Why it is slow
    gloo brings each tensor to the host, exchanges it there over TCP and brings it back; NCCL moves it from GPU to
    GPU over NVLink, PCIe or RDMA, behind the backward pass, without the host.

    ## Evidence
    The default group's backend is gloo and the training's device is a GPU. The gain was not measured.

    ## Fix
    `init_process_group("nccl")`; objects and barriers on the host can keep a second group of gloo.

    ## Gain
    Not promised: it depends on what connects the GPUs.

    ## Reference
    PyTorch, "Distributed communication package": which backend to use.
    """

    id = "comm/gloo-on-gpus"
    bottleneck = Bottleneck.COMMUNICATION
    needs_device_times = False

    def check(self, facts: Facts) -> Outcome:
        """Judge the backend by the device."""
        ranks = facts.ranks
        if ranks is None or ranks.backend != "gloo" or facts.machine.device == "cpu":
            return None
        return self.finding(
            title=f"{ranks.world_size} ranks on {facts.machine.device} exchange gradients over gloo",
            why="gloo copies every tensor to the host and back around its exchange, and the GPU waits meanwhile.",
            evidence={"ranks": float(ranks.world_size), "step_ms": step_ms(facts)},
            fix=Fix(
                "Initialise the default process group with NCCL.",
                'torch.distributed.init_process_group("nccl", device_id=torch.device("cuda", local_rank))',
            ),
            severity=Severity.WARNING,
        )
