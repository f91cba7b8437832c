"""The run's verdict: what the findings and the facts add up to.

In:  facts, and the findings as ranked.
Out: `Verdict`: one word and one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from profiler.analysis.facts import Facts, WorkerFacts
from profiler.rules import device_verdict
from profiler.rules.base import Abstention, Bottleneck, Finding, Severity, severity_of
from profiler.rules.evidence import (
    HOST_TIMES,
    UNRECORDED,
    WORTH_SHARE,
    arithmetic_share,
    host_is_ahead,
    host_times,
    missing,
    share,
    share_of_run,
    step_ms,
    steps_to_judge,
)
from profiler.rules.phrases import ms, percent

WORDS = {
    Bottleneck.DATA_LOADING: "Data loading",
    Bottleneck.DATA_PREPROCESSING: "Data preprocessing",
    Bottleneck.HOST_TO_DEVICE: "Copies to the device",
    Bottleneck.HOST_OVERHEAD: "Host overhead",
    Bottleneck.SYNCHRONIZATION: "Synchronization",
    Bottleneck.COMPUTE: "Compute",
    Bottleneck.OPTIMIZER: "Optimizer",
    Bottleneck.COMMUNICATION: "Communication",
    Bottleneck.STRAGGLER: "Straggler",
    Bottleneck.MEMORY: "Memory",
    Bottleneck.OTHER: "Other",
}
LONG_WAIT = 0.2  # of the step in the wait for data, from which it is what a trace is about
HEALTHY_SHARE = 0.5  # of the step in arithmetic from which it is called compute
HELD_UP = 0.3  # of a batch's time without a core, from which it is said
STAGE_WORDS = {
    "host_to_device": (Bottleneck.HOST_TO_DEVICE, "copies batches to the device"),
    "communication": (Bottleneck.COMMUNICATION, "waits for communication"),
    "optimizer": (Bottleneck.OPTIMIZER, "updates the parameters"),
    "other": (Bottleneck.OTHER, "lies outside of every stage"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The bottleneck in one word, and in one sentence."""

    bottleneck: Bottleneck
    rule: str | None
    severity: Severity
    summary: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the catalogue says of a run."""

    verdict: Verdict
    findings: tuple[Finding, ...]  # ranked
    abstentions: tuple[Abstention, ...]
    failures: tuple[tuple[str, str], ...]  # (rule, error): a rule that raised
    folded: tuple[tuple[Finding, str], ...] = ()  # (finding, the rule of the stronger cause that explains it)
    silenced: tuple[Finding, ...] = ()  # by `# prof: ignore[…]` on the user's line


@dataclass(frozen=True, slots=True)
class Result:
    """A run's facts and what they mean: the value that every report renders."""

    facts: Facts
    judgement: Judgement


def decide(facts: Facts, findings: Sequence[Finding]) -> Verdict:
    """The verdict over ranked findings.

    In this order: nothing seen, too little seen, memory about to run out, a run that hardly trains, the
    device's own clock where it was read; else the first finding that is more than a note; then the stage that holds
    the step, which is `compute` where it is healthy.
    """
    by_rule = {finding.rule: finding for finding in findings}
    steps = facts.steps
    if steps is None:
        return _of(by_rule.get("run/no-training"), "No training step was seen.", Bottleneck.NONE)
    urgent = [f for f in findings if f.bottleneck is Bottleneck.MEMORY and f.severity is Severity.CRITICAL]
    if urgent:
        return _of(urgent[0])
    if facts.device is None and facts.trace is not None and facts.trace.thinned:
        return _of(None, f"What fills the step can't be told: {missing(facts)}.")
    if facts.trace is not None and facts.trace.unrecorded_device:
        return _of(None, f"What fills the step can't be told: {UNRECORDED}.")
    needed = steps_to_judge(facts)
    if steps.measured < needed:
        short = f"Too short to judge: {steps.measured} steps were measured, {needed} are needed."
        return _of(by_rule.get("run/too-few-steps"), short, Bottleneck.NONE)
    serious = [f for f in findings if f.severity is not Severity.INFO]
    around = [f for f in serious if f.rule.startswith("run/")]
    trained = share_of_run(facts)
    if around and trained is not None and trained < 0.5:
        return _of(around[0])
    of_steps = [f for f in serious if f not in around]
    if facts.device is not None:
        return _by_device(facts, findings, of_steps)
    if facts.trace is not None and share(facts, "data_wait") >= LONG_WAIT:  # rules of data ask for the workers
        return _waiting(facts, next(iter(findings), None))
    if of_steps:
        verdict = _of(of_steps[0])
        if not host_times(facts):
            return verdict
        return Verdict(verdict.bottleneck, verdict.rule, verdict.severity, f"{verdict.summary} {_HOST_TIMES}")
    return _by_stages(facts, findings)


_HOST_TIMES = "These are host times: the device's own clock was not read."


def _of(finding: Finding | None, otherwise: str = "", word: Bottleneck = Bottleneck.NONE) -> Verdict:
    if finding is None:
        return Verdict(word, None, Severity.INFO, otherwise)
    title = finding.title
    if finding.rule.startswith("run/"):
        sentence = title[:1].upper() + title[1:]
    else:
        sentence = f"{WORDS[finding.bottleneck]}: {title}"
    return Verdict(finding.bottleneck, finding.rule, finding.severity, sentence.rstrip(".") + ".")


_MOST_OF_LATE = 0.5
_CAUSES_OF_LATE = {  # where they are found, most late launches are theirs
    "optimizer/many-launches": Bottleneck.OPTIMIZER,
    "sync/empty-cache": Bottleneck.SYNCHRONIZATION,
}
_LOST_BY_DEVICE = frozenset(  # words that say what the device waited for: its clock must bear them out
    {
        Bottleneck.DATA_LOADING,
        Bottleneck.DATA_PREPROCESSING,
        Bottleneck.HOST_TO_DEVICE,
        Bottleneck.HOST_OVERHEAD,
        Bottleneck.SYNCHRONIZATION,
        Bottleneck.COMMUNICATION,
    }
)


def _by_device(facts: Facts, findings: Sequence[Finding], serious: Sequence[Finding]) -> Verdict:
    """The largest part of the step that the device lost; where it lost little, what it does is what takes the time."""
    late = device_verdict.straggler(facts)
    if late is not None:
        share_of_step, sentence = late
        named = next((f for f in findings if f.bottleneck is Bottleneck.STRAGGLER), None)
        summary = f"{WORDS[Bottleneck.STRAGGLER]}: {sentence}."
        return Verdict(Bottleneck.STRAGGLER, named.rule if named else None, severity_of(share_of_step), summary)
    found = device_verdict.parts(facts)
    if isinstance(found, str):
        return _of(None, f"What fills the step can't be told: {found}.")
    part = device_verdict.leading(found)
    if _judged_by_whole_run(facts, serious, part.share if part else 0.0):
        return _of(serious[0])
    if part is not None and part.word is Bottleneck.HOST_OVERHEAD:
        cause = next((it.rule for it in findings if it.rule in _CAUSES_OF_LATE and _is_cause(it, part.ms)), None)
        part = part if cause is None else replace(part, word=_CAUSES_OF_LATE[cause])
    if part is not None:
        named = next((f for f in findings if f.bottleneck is part.word is not Bottleneck.OTHER), None)
        if named is None and part.word.value.startswith("data-"):
            named = next((f for f in findings if f.rule.startswith("data/")), None)
        severity = Severity.INFO if facts.device is None or facts.device.thinned else severity_of(part.share)
        return Verdict(
            part.word,
            named.rule if named else None,
            severity,
            f"{_WORDS_OF_PARTS.get(part.word, WORDS[part.word])}: {part.sentence}.",
        )
    busy = device_verdict.busy_share(facts)
    step = f"each {ms(device_verdict.judged_ms(facts))} step"
    if busy < HEALTHY_SHARE:
        return _of(None, f"The device works for {percent(busy)} of {step}, and why it stands idle can't be told.")
    of_its_own = [f for f in serious if f.bottleneck not in _LOST_BY_DEVICE]
    if of_its_own:
        return _of(of_its_own[0])
    updating = device_verdict.updating_share(facts)
    if updating >= HEALTHY_SHARE:
        named = next((f for f in findings if f.bottleneck is Bottleneck.OPTIMIZER), None)
        sentence = f"Optimizer: the device updates parameters for {percent(updating)} of {step}."
        return Verdict(Bottleneck.OPTIMIZER, named.rule if named else None, Severity.INFO, sentence)
    healthy = next((f for f in findings if f.bottleneck is Bottleneck.COMPUTE), None)
    lost = f"; the most it loses is {percent(found[0].share)}, to {_TO[found[0].word]}" if found[0].share > 0 else ""
    sentence = f"Compute: the device works for {percent(busy)} of {step}{lost}."
    return Verdict(Bottleneck.COMPUTE, healthy.rule if healthy else None, Severity.INFO, sentence)


def _is_cause(finding: Finding, lost_ms: float) -> bool:
    """Whether most late launches are this finding's; one of the update says so by itself."""
    return finding.bottleneck is Bottleneck.OPTIMIZER or finding.recoverable_ms >= _MOST_OF_LATE * lost_ms


def _judged_by_whole_run(facts: Facts, serious: Sequence[Finding], lost_share: float) -> bool:
    """Whether the first finding rests on the device's clock over the whole run, and weighs more than what a window of
    a few steps shows."""
    if facts.trace is not None or not facts.machine.device_times or not serious:
        return False
    return serious[0].recoverable_ms > lost_share * step_ms(facts)


_WORDS_OF_PARTS = {Bottleneck.OTHER: "Copies back to the host"}
_TO = {
    Bottleneck.DATA_LOADING: "the wait for batches",
    Bottleneck.DATA_PREPROCESSING: "the wait for batches",
    Bottleneck.HOST_TO_DEVICE: "copies between host and device",
    Bottleneck.OTHER: "copies back to the host",
    Bottleneck.HOST_OVERHEAD: "late launches",
    Bottleneck.SYNCHRONIZATION: "waits of the host for the device",
    Bottleneck.COMMUNICATION: "exposed communication",
}


def _by_stages(facts: Facts, findings: Sequence[Finding]) -> Verdict:
    """No finding is more than a note: what holds the step by its stages alone."""
    whole = step_ms(facts)
    if host_times(facts):
        return _by_host_times(facts)
    if arithmetic_share(facts) >= HEALTHY_SHARE:
        healthy = next((f for f in findings if f.rule == "compute/healthy"), None)
        filled = percent(arithmetic_share(facts))
        sentence = f"Compute: the model's own arithmetic takes {filled} of each {ms(whole)} step"
        note = next((f for f in findings if f.recoverable_ms > 0), None)
        more = f"; the most that was found to gain is {percent(note.recoverable_ms / whole)} of it" if note else ""
        exchange = share(facts, "communication")
        if exchange >= WORTH_SHARE:
            more += (
                f"; {percent(exchange)} is spent with other ranks, and no cure for it was found"
                if not any(each.bottleneck in (Bottleneck.COMMUNICATION, Bottleneck.STRAGGLER) for each in findings)
                else f"; {percent(exchange)} is spent with other ranks"
            )
        return Verdict(Bottleneck.COMPUTE, healthy.rule if healthy else None, Severity.INFO, f"{sentence}{more}.")
    if not facts.stages:
        return Verdict(Bottleneck.NONE, None, Severity.INFO, "The stages of the step were not measured.")
    first = next(iter(findings), None)
    largest = max(facts.stages.values(), key=lambda stage: stage.share)
    if largest.name in ("forward", "backward") and facts.machine.asynchronous and not host_is_ahead(facts):
        return _of(None, _NOT_TOLD.format(stage=largest.name, share=percent(largest.share), step=ms(whole)))
    if largest.name == "data_wait":
        return _waiting(facts, first)
    if largest.name in STAGE_WORDS:
        word, does = STAGE_WORDS[largest.name]
        if largest.name == "communication" and _is_waiting(facts):
            word, does = Bottleneck.STRAGGLER, "waits for ranks that come late"
        named = first.rule if first and first.bottleneck is word else None
        noted = next((each for each in findings if each.bottleneck is word), None)
        cure = "no cure for it was found" if noted is None else f"what was found is a note: {noted.title}"
        sentence = f"{WORDS[word]}: {percent(largest.share)} of each {ms(whole)} step {does}, and {cure}."
        return Verdict(word, named, Severity.INFO, sentence)
    sentence = (
        f"Compute: {largest.name} is the largest stage with {percent(largest.share)} of each {ms(whole)} "
        "step, and nothing in its way was found."
    )
    return Verdict(Bottleneck.COMPUTE, None, Severity.INFO, sentence)


def _is_waiting(facts: Facts) -> bool:
    """Whether most of the communication is waiting for other ranks."""
    ranks = facts.ranks
    return ranks is not None and (ranks.waiting_ms or 0.0) > (ranks.network_ms or 0.0) and ranks.late is not None


def _waiting(facts: Facts, first: Finding | None) -> Verdict:
    """The loop waits for data more than for anything else, and no rule could promise a cure."""
    waited, whole, workers = share(facts, "data_wait"), step_ms(facts), facts.workers
    named = first.rule if first and first.rule.startswith("data/") else None
    severity = min(severity_of(waited), Severity.WARNING, key=[*Severity][::-1].index)
    if workers is None and facts.trace is not None:
        word, what = device_verdict.of_loading(facts)
        waits = f"{WORDS[word]}: {percent(waited)} of each {ms(whole)} step waits for batches{what}."
        return Verdict(word, named, severity, waits)
    if workers is None:
        word, what = Bottleneck.DATA_LOADING, "what makes them slow was not observed"
    elif workers.load_ms > workers.preprocess_ms + workers.collate_ms:
        word, what = (
            Bottleneck.DATA_LOADING,
            f"{ms(workers.load_ms)} of each is blocked on storage or network",
        )
    else:
        word, what = Bottleneck.DATA_PREPROCESSING, f"each takes {ms(workers.batch_ms)} to make"
        what += _waits_for_cores(workers)
    sentence = f"{WORDS[word]}: {percent(waited)} of each {ms(whole)} step waits for batches, and {what}."
    return Verdict(word, named, severity, sentence)


def _waits_for_cores(workers: WorkerFacts) -> str:
    """That what makes the batches was kept from running, as a clause."""
    delayed = workers.run_delay_ms / workers.parts_ms if workers.parts_ms else 0.0
    return f", {percent(delayed)} of it waiting for a core" if delayed >= HELD_UP else ""


_NOT_TOLD = (
    "By the device's clock {stage} takes {share} of each {step} step, and the host is no faster there: whether the "
    "device computes or waits for the host was not seen; a deep look tells."
)


def _by_host_times(facts: Facts) -> Verdict:
    """An asynchronous device without its clock: say what the host saw, and blame no stage for it."""
    largest = max(facts.stages.values(), key=lambda stage: stage.share, default=None)
    seen = (
        f" The host spent most of each {ms(step_ms(facts))} step in {largest.name} "
        f"({percent(largest.share)}), which may "
        "be work queued elsewhere."
        if largest
        else ""
    )
    return Verdict(Bottleneck.NONE, None, Severity.INFO, f"What fills the step can't be told: {HOST_TIMES}.{seen}")
