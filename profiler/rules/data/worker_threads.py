"""data/worker-threads."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Gain, Outcome, Rule, Threshold
from profiler.rules.data.supply import Supply, caveat, maker, severity, waits
from profiler.rules.evidence import worth
from profiler.rules.phrases import ms, percent

REACHED = 0.7  # of the batch's time on one thread: the threads' work may have been work


class WorkerThreads(Rule):
    """Threads inside the workers fight over the cores.

    ## Why it is slow
    torch limits itself to one thread in a worker; NumPy's BLAS, OpenCV and other libraries do not. Each of n
    workers then starts as many threads as the machine has cores, and they wait for one another in busy loops
    while the threads that they wait for have no core.

    ## Evidence
    `data_wait` is above `threshold` of the step; at least `other_share` of the workers' CPU time is spent in
    threads other than the one that makes the batches, and at least `other_ms` of the time to make a batch, of
    which computing is the largest part; workers times their busy threads are more than the cores,
    and fewer than `idle_cores` stood idle. It abstains when the workers' threads or the idle cores were not
    observed.

    ## Fix
    One thread for each library in each worker: by environment variables before the start, or in
    `worker_init_fn`.

    ## Gain
    A batch then takes no more than the CPU time of the thread that makes it, which in part was waiting too: the
    step follows as `max(step - data_wait, batches x t / n)`, with t from 70 % of that time to all the workers'
    CPU time, which was no waste at all then. Measured with NumPy's OpenBLAS, 2 workers on 2 cores: 3.6 and 8
    times faster.

    ## Reference
    OpenBLAS documentation, OPENBLAS_NUM_THREADS; OpenCV, cv::setNumThreads; threadpoolctl.
    """

    id = "data/worker-threads"
    evidence = "training"
    bottleneck = Bottleneck.DATA_PREPROCESSING
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent waiting for data")
    other_share = Threshold(0.25, "share of the workers' CPU time in threads that make no batches")
    other_ms = Threshold(0.15, "CPU time of such threads over a batch's time, below which they hardly run")
    idle_cores = Threshold(0.5, "idle cores above which the threads do not fight")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether the workers' own threads hold them up."""
        supply = waits(facts, self.threshold.value)
        if not isinstance(supply, Supply) or supply.processes == 0:
            return self.abstain(supply) if isinstance(supply, str) else None
        seen = facts.workers.process_facts if facts.workers else None
        if seen is None or seen.other_cpu_share is None or not seen.cpu_ms:
            return self.abstain("the workers made too few batches for a look at their threads")
        if seen.other_cpu_share < self.other_share.value or seen.other_cpu_share >= 1:
            return None
        if (
            supply.dominant != "preprocess"
            or seen.cpu_ms * seen.other_cpu_share < self.other_ms.value * supply.batch_ms
        ):
            return None
        busy = supply.processes / (1 - seen.other_cpu_share)
        if busy <= facts.machine.cores:
            return None
        idle = facts.machine.idle_cores
        if idle is None:
            return self.abstain("how many cores stood idle was not measured")
        if idle >= self.idle_cores.value:
            return None
        alone_ms = seen.cpu_ms * (1 - seen.other_cpu_share)
        best, worst = (
            min(supply.step_ms, supply.step_with(took_ms + supply.load_ms, supply.processes))
            for took_ms in (REACHED * alone_ms, seen.cpu_ms)
        )
        if not worth(facts, supply.step_ms - best):
            return None
        gain = Gain.of(supply.step_ms, supply.step_ms - worst, supply.step_ms - best)
        threads = f" A worker had up to {seen.threads} threads." if seen.threads else ""
        return self.finding(
            title=(
                f"{percent(seen.other_cpu_share)} of the workers' CPU time is in threads of libraries: about "
                f"{busy:.0f} busy threads share {facts.machine.cores} cores"
            ),
            why=(
                f"A batch takes {ms(supply.batch_ms)} to make, and {percent(supply.wait_share)} of each "
                f"{ms(supply.step_ms)} step waits for {maker(supply)}. Each spends {ms(seen.cpu_ms)} of CPU on a "
                f"batch, of which {ms(alone_ms)} in the thread that makes it.{threads}" + caveat(facts)
            ),
            evidence={
                "other_cpu_share": seen.other_cpu_share,
                "busy_threads": busy,
                "cores": float(facts.machine.cores),
                "cpu_ms": seen.cpu_ms,
                "batch_ms": supply.batch_ms,
                "data_wait_share": supply.wait_share,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
            },
            fix=Fix.at(supply.site, "Give each library one thread in the workers.", _CODE),
            gain=gain,
            step_ms=supply.step_ms,
            severity=severity(facts, supply, gain),
        )


_CODE = """\
# in the shell: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 python train.py

# or in the workers alone
def one_thread(worker_id):
    threadpoolctl.threadpool_limits(1)  # NumPy, SciPy, scikit-learn
    cv2.setNumThreads(0)  # where OpenCV is used

DataLoader(..., worker_init_fn=one_thread)  # the other arguments stay"""
