"""run/evaluation-, checkpoint-, startup- and compile-dominates, and synchronous-checkpoint: spans of the run."""

from __future__ import annotations

from typing import Any, ClassVar

from profiler.analysis.facts import Facts, SpanFacts
from profiler.rules.base import Bottleneck, Finding, Fix, Rule, Severity, Threshold
from profiler.rules.evidence import share_of_run
from profiler.rules.phrases import counted, percent, place, seconds


class _SpanRule(Rule):
    """What the rules of one span share; no rule itself."""

    span: ClassVar[str]
    verb: ClassVar[str]  # "evaluates", …
    bottleneck = Bottleneck.OTHER
    per_step = False
    needs_device_times = False

    def _judge(self, facts: Facts, note: Threshold, warn: Threshold, min_run_s: Threshold, fix: Fix) -> Finding | None:
        span = _span(facts, self.span)
        if span is None or facts.run.duration_s < min_run_s.value or span.share_of_run < note.value:
            return None
        steps = share_of_run(facts)
        where = f" at {place(span.site, facts)}" if span.site else ""
        trained = f", and its training steps {percent(steps)}" if steps is not None else ""
        lasted = seconds(facts.run.duration_s)
        return self.finding(
            title=f"the run {self.verb} for {percent(span.share_of_run)} of its {lasted}",
            why=(
                f"{self.span.capitalize()} took {seconds(span.total_s)} of the run{trained}: "
                f"{counted(span.count, 'time')}{where}, {seconds(span.longest_s)} at the longest."
            ),
            evidence={
                "share_of_run": span.share_of_run,
                "total_s": span.total_s,
                "count": float(span.count),
                "longest_s": span.longest_s,
                **({"steps_share_of_run": steps} if steps is not None else {}),
            },
            fix=fix if fix.line is not None else Fix.at(span.site, fix.summary, fix.code),
            severity=Severity.WARNING if span.share_of_run >= warn.value else Severity.INFO,
        )


class EvaluationDominates(_SpanRule):
    """Evaluation takes a large part of the run.

    ## Why it is slow
    Time in which the model is evaluated is time in which it does not train, and evaluating more often than
    the result is looked at buys nothing.

    ## Evidence
    The run lasted at least `min_run_s`, and evaluation took at least `note` of it; from `warn` on it is a
    warning.

    ## Fix
    Evaluate less often, on a part of the set, without gradients, and with a larger batch.

    ## Gain
    Of the run, not of the step: evaluating half as often saves half of the span's seconds.

    ## Reference
    torch.inference_mode.
    """

    id = "run/evaluation-dominates"
    arguments = {
        "transformers": 'TrainingArguments(eval_strategy="steps", eval_steps=2000)',
        "lightning": "Trainer(check_val_every_n_epoch=5, limit_val_batches=0.2)",
    }
    evidence = "training"
    span = "evaluation"
    verb = "evaluates"
    note = Threshold(0.25, "share of the run from which it is told")
    warn = Threshold(0.50, "share of the run from which it is a warning")
    min_run_s = Threshold(20.0, "length of a run below which nothing is said, in seconds")

    def check(self, facts: Facts) -> Finding | None:
        """Judge evaluation's share of the run."""
        code = "if epoch % 5 == 0:\n    with torch.inference_mode():\n        evaluate(model)"
        return self._judge(
            facts, self.note, self.warn, self.min_run_s, Fix("Evaluate less often, in inference mode.", code)
        )


class CheckpointDominates(_SpanRule):
    """Saving checkpoints takes a large part of the run.

    ## Why it is slow
    `torch.save` serializes and writes while the loop stands still.

    ## Evidence
    The run lasted at least `min_run_s`, and saving and loading took at least `note` of it; from `warn` on
    it is a warning.

    ## Fix
    Save less often, or write from another thread out of a copy.

    ## Gain
    Of the run, not of the step: saving half as often saves half of the span's seconds; an asynchronous save
    leaves the copy alone.

    ## Reference
    torch.distributed.checkpoint.async_save.
    """

    id = "run/checkpoint-dominates"
    arguments = {
        "transformers": "TrainingArguments(save_steps=5000, save_only_model=True)",
        "lightning": "ModelCheckpoint(every_n_train_steps=5000)  # in Trainer(callbacks=[...])",
    }
    evidence = "training"
    span = "checkpoint"
    verb = "saves and loads checkpoints"
    note = Threshold(0.10, "share of the run from which it is told")
    warn = Threshold(0.25, "share of the run from which it is a warning")
    min_run_s = Threshold(20.0, "length of a run below which nothing is said, in seconds")

    def check(self, facts: Facts) -> Finding | None:
        """Judge checkpointing's share of the run."""
        code = 'if step % 1000 == 0:  # step: your loop\'s counter\n    torch.save(state, "model.pt")'
        return self._judge(
            facts, self.note, self.warn, self.min_run_s, Fix("Save less often, or from another thread.", code)
        )


class SynchronousCheckpoint(_SpanRule):
    """The loop stands still while a checkpoint is written.

    ## Why it is slow
    `torch.save` serializes, writes and waits for the disk on the thread that trains, though the training needs no
    more than that the values are copied before the next update.

    ## Evidence
    The run lasted at least `min_run_s`; it saved at least `saves` times, at `least_s` or more each on average, which
    is at least `steps` of its mean steps; and that took at least `note` of the run, from `warn` on as a warning. It
    gives way to `run/checkpoint-dominates`, where saving less often comes first.

    ## Fix
    Copy the values, and write the copy from another thread or process.

    ## Gain
    Of the run, not of the step: at most the span's seconds, less what the copy takes.

    ## Reference
    torch.distributed.checkpoint.async_save; Lightning, AsyncCheckpointIO.
    """

    id = "run/synchronous-checkpoint"
    evidence = "training"
    explained_by = ("run/checkpoint-dominates",)
    span = "checkpoint"
    verb = "stands still for checkpoints"
    arguments = {"lightning": "Trainer(plugins=[AsyncCheckpointIO()])"}
    note = Threshold(0.02, "share of the run from which it is told")
    warn = Threshold(0.10, "share of the run from which it is a warning")
    min_run_s = Threshold(20.0, "length of a run below which nothing is said, in seconds")
    saves = Threshold(3, "checkpoints that must have been written")
    least_s = Threshold(0.3, "mean time of a checkpoint below which nothing is said, in seconds")
    steps = Threshold(10, "mean steps that a checkpoint must take as long as")

    def check(self, facts: Facts) -> Finding | None:
        """Judge how long a checkpoint holds the loop."""
        span = _span(facts, self.span)
        if span is None or facts.steps is None or span.count < self.saves.value:
            return None
        each_s = span.total_s / span.count
        if each_s < max(self.least_s.value, self.steps.value * facts.steps.mean_ms / 1000):
            return None
        fix = Fix("Copy the state, and write it from another thread.", _ASYNC)
        return self._judge(facts, self.note, self.warn, self.min_run_s, fix)


class StartupDominates(_SpanRule):
    """The run spends much of its time before its first step.

    ## Why it is slow
    Imports, building the model, reading the data set's index and the first batch come before any training,
    once a run.

    ## Evidence
    The run lasted at least `min_run_s`, and what came before the first step took at least `note` of it;
    from `warn` on it is a warning. Short trials are dominated by their startup, and are not judged.

    ## Fix
    Keep what is computed at the start (an index, tokens, statistics) in a file.

    ## Gain
    Of the run, not of the step: at most the span's seconds.

    ## Reference
    torch.load, `mmap=True`.
    """

    id = "run/startup-dominates"
    evidence = "training"
    span = "startup"
    verb = "starts up"
    note = Threshold(0.25, "share of the run from which it is told")
    warn = Threshold(0.50, "share of the run from which it is a warning")
    min_run_s = Threshold(60.0, "length of a run below which nothing is said, in seconds")

    def check(self, facts: Facts) -> Finding | None:
        """Judge startup's share of the run."""
        code = (
            'if not os.path.exists("index.pt"):\n'
            '    torch.save(build_index(), "index.pt")  # once\n'
            'index = torch.load("index.pt", mmap=True)'
        )
        return self._judge(
            facts,
            self.note,
            self.warn,
            self.min_run_s,
            Fix("Keep what is computed at the start in a file.", code),
        )


class CompileDominates(_SpanRule):
    """Compiling takes a large part of the run.

    ## Why it is slow
    `torch.compile` makes code for each graph when it is first run, while the loop stands still; where
    shapes or Python values change from step to step, it compiles again.

    ## Evidence
    The run lasted at least `min_run_s`, and the compiler ran for at least `note` of it; from `warn` on it
    is a warning. Short trials are dominated by it, and are not judged.

    ## Fix
    Find out by `TORCH_LOGS=recompiles` whether it compiles again, and mark what changes as dynamic; take
    the default mode instead of `max-autotune`; or train longer for each start.

    ## Gain
    Of the run, not of the step: at most the span's seconds.

    ## Reference
    torch.compile, "Dynamic shapes" and "Recompilation".
    """

    id = "run/compile-dominates"
    span = "compile"
    verb = "compiles"
    note = Threshold(0.25, "share of the run from which it is told")
    warn = Threshold(0.50, "share of the run from which it is a warning")
    min_run_s = Threshold(60.0, "length of a run below which nothing is said, in seconds")

    def check(self, facts: Facts) -> Finding | None:
        """Judge the compiler's share of the run."""
        summary, code = _compile_cure(facts.settings.values.get("compile"))
        fix = Fix.at(facts.settings.sites.get("compile"), summary, code)
        return self._judge(facts, self.note, self.warn, self.min_run_s, fix)


_ASYNC = """\
import copy, threading

state = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})  # the copy is quick
writer = threading.Thread(target=torch.save, args=(state, "model.pt"))  # the writing is not
writer.start()
...
writer.join()  # before the next one, and at the end

# or, where the state is sharded:
future = torch.distributed.checkpoint.async_save(state, checkpoint_id="step-1000")"""


def _compile_cure(given: Any) -> tuple[str, str]:
    """By the arguments of torch.compile, where its call was seen."""
    mode = given.get("mode") if isinstance(given, dict) else None
    if isinstance(mode, str) and mode.startswith("max-autotune"):
        return (
            f"Compile in the default mode instead of {mode}, which times many candidates of each kernel.",
            "model = torch.compile(model)",
        )
    return "See whether it compiles again, and mark the sizes that change as dynamic.", _DYNAMIC


_DYNAMIC = """\
# in the shell: TORCH_LOGS=recompiles python train.py, which tells each time why
torch._dynamo.mark_dynamic(inputs, 1)  # the dimension whose size changes; or torch.compile(model, dynamic=True)"""


def _span(facts: Facts, name: str) -> SpanFacts | None:
    return next((span for span in facts.spans if span.name == name), None)
