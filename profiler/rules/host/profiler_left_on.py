"""host/profiler-left-on."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Severity
from profiler.rules.phrases import joined

_KNOWN = {
    "torch.profiler": "torch's profiler, which notes every operator",
    "cProfile": "cProfile, which is called at every call of a function",
    "profile": "Python's profile module, which is called at every call of a function",
    "coverage": "coverage, which counts every line",
    "pydevd": "a debugger, which is called at every line",
    "_pydevd_bundle": "a debugger, which is called at every line",
    "bdb": "a debugger, which is called at every line",
    "tracemalloc": "tracemalloc, which keeps a traceback of every allocation",
    "hunter": "hunter, which is called at every line",
    "viztracer": "VizTracer, which is called at every call of a function",
}
_OFF = {
    "torch.profiler": (
        "with torch.profiler.profile(schedule=torch.profiler.schedule(wait=10, warmup=2, active=3)) as prof:\n"
        "    for ...:  # your loop\n"
        "        ...\n"
        "        prof.step()  # outside of the three steps it costs next to nothing"
    ),
    "cProfile": "python train.py  # not: python -m cProfile train.py",
    "coverage": "python train.py  # not: coverage run train.py; or a core of it that costs less: COVERAGE_CORE=sysmon",
    "tracemalloc": "tracemalloc.stop()  # and no PYTHONTRACEMALLOC in the environment",
}


class ProfilerLeftOn(Rule):
    """A profiler, a debugger or a tracer watches every step.

    ## Why it is slow
    What is called at every function or line of Python, or notes every operator, takes as long as a short operator
    itself: steps of many small operators get several times as long. Such tools keep what they saw, so that memory
    grows as well.

    ## Evidence
    On the thread that trains a trace function, a profile function, a monitoring tool, torch's profiler or
    tracemalloc was in place at the 5th step and still at the 25th. This tool's own looks are not among them.

    ## Fix
    Switch it off, or let it watch a few steps (`torch.profiler.schedule`).

    ## Gain
    Not promised: what is left without it was not seen.

    ## Reference
    PyTorch performance tuning guide, "Disable debugging APIs"; Python documentation, sys.setprofile and sys.settrace.
    """

    id = "host/profiler-left-on"
    evidence = "training"
    bottleneck = Bottleneck.HOST_OVERHEAD
    per_step = False
    needs_device_times = False
    arguments = {"lightning": "Trainer(profiler=None)"}

    def check(self, facts: Facts) -> Outcome:
        """Judge what watched the training thread."""
        given = facts.settings.values.get("instruments")
        names = [str(name) for name in given if name != "anomaly detection"] if isinstance(given, list) else []
        if facts.steps is None or not names:
            return None
        watched = joined(_KNOWN.get(name, f"{name}, which watches Python run") for name in names)
        return self.finding(
            title=f"{joined(names)} watched the training from its first steps on",
            why=f"In place at the 5th step and at the 25th was {watched}. Stage times hold what that costs.",
            evidence={"instruments": float(len(names))},
            fix=Fix(
                "Train without it, or let it watch a few steps.",
                "\n\n".join(_OFF[name] for name in names if name in _OFF) or "python train.py  # without it",
            ),
            severity=Severity.WARNING,
        )
