"""compute/threads."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity, Threshold
from profiler.rules.evidence import arithmetic_share, step_ms
from profiler.rules.phrases import counted, ms, percent


class Threads(Rule):
    """PyTorch's threads don't fit the cores.

    ## Why it is slow
    An operator on the CPU is divided among `torch.get_num_threads()` threads: with few of them cores stand
    idle, and with more than there are cores they wait for each other.

    ## Evidence
    The training runs on the CPU, the model's arithmetic takes at least `arithmetic` of the step, and either
    the threads are fewer than `few` of the cores while at least `idle` of the cores (and two of them) were
    idle, or they are more than `many` for each core. Always a note: how far the operators scale is not in
    the record, and a number that was set may have its reasons.

    ## Fix
    Set the number, and measure.

    ## Gain
    Not promised: small operators gain nothing from more threads.

    ## Reference
    PyTorch performance tuning guide, "CPU specific optimizations".
    """

    id = "compute/threads"
    evidence = "training"
    bottleneck = Bottleneck.COMPUTE
    arithmetic = Threshold(0.5, "share of the step in the model's arithmetic")
    few = Threshold(0.5, "threads for each core below which they are few")
    many = Threshold(1.0, "threads for each core above which they are many")
    idle = Threshold(0.5, "share of the cores that stand idle, from which few threads are told")

    def check(self, facts: Facts) -> Outcome:
        """Judge the number of threads against the cores."""
        machine, settings = facts.machine, facts.settings
        if machine.device != "cpu" or arithmetic_share(facts) < self.arithmetic.value:
            return None
        threads, cores = settings.values.get("torch_num_threads"), machine.cores
        if not isinstance(threads, int) or cores <= 0:
            return self.abstain("the number of PyTorch's threads was not read")
        idle = machine.idle_cores
        if threads > self.many.value * cores:
            said = f"PyTorch runs {threads} threads on {counted(cores, 'core')}"
            why = "The threads of one operator share cores, and each waits for the last of them."
            best = cores
        elif threads < self.few.value * cores:
            if idle is None:
                return self.abstain(facts.not_measured.get("idle cores", "idle cores were not measured"))
            if idle < max(self.idle.value * cores, 2.0):
                return None
            said = f"PyTorch runs {counted(threads, 'thread')} while {idle:.1f} of {cores} cores are idle"
            why = "Operators on large tensors can be divided among more threads."
            best = min(cores, threads + int(idle))
        else:
            return None
        site, variable = settings.sites.get("torch_num_threads"), settings.values.get("OMP_NUM_THREADS")
        origin = (
            " The script sets the number."
            if site
            else f" OMP_NUM_THREADS is {variable}."
            if variable is not None
            else ""
        )
        return self.finding(
            title=said,
            why=(
                f"{why}{origin} The model's arithmetic takes {percent(arithmetic_share(facts))} of each "
                f"{ms(step_ms(facts))} step."
            ),
            evidence={
                "threads": float(threads),
                "cores": float(cores),
                **({"idle_cores": idle} if idle is not None else {}),
                "arithmetic_share": arithmetic_share(facts),
            },
            fix=Fix.at(
                site,
                f"Try {counted(best, 'thread')}, and measure.",
                f"torch.set_num_threads({best})  # before the first operator; or OMP_NUM_THREADS={best}",
            ),
            severity=Severity.INFO,
        )
