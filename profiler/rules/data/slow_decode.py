"""data/slow-decode."""

from __future__ import annotations

from profiler.analysis.facts import Facts
from profiler.rules.base import Bottleneck, Fix, Outcome, Rule, Threshold
from profiler.rules.data.library_lines import decoding, total_ms
from profiler.rules.data.supply import (
    Supply,
    caveat,
    gain_of_shorter_batches,
    line_sentence,
    maker,
    severity,
    waits,
)
from profiler.rules.phrases import ms, percent

LEAST = 0.5  # of the decoding that goes: what is stored smaller is still decoded


class SlowDecode(Rule):
    """The loop waits for files to be decoded.

    ## Why it is slow
    To decode a picture costs CPU for every pixel of the file, though most are thrown away when it is shrunk to
    the network's size; sound, video and compressed files cost alike. It is done again in every epoch.

    ## Evidence
    `data_wait` is above `threshold` of the step, computing in the data set's items is the largest part of a
    batch, and the sampler found lines that decode (PIL, torchvision.io, OpenCV, imageio; torchaudio, librosa,
    soundfile; decord, PyAV; gzip, zlib, h5py) for at least `decode_share` of a batch, in at least `samples`
    samples. It is folded under `data/too-few-workers` while idle cores can take the work, and abstains when the
    workers were not observed.

    ## Fix
    Store what is used: pictures at the network's size, sound at its rate, arrays without compression. Or decode
    less (`Image.draft`), or on the GPU.

    ## Gain
    Half to all of the decoding lines' time in a batch. The step follows as `step - batches x saved` where the
    training thread loads, else as `max(step - data_wait, batches x (batch_ms - saved) / n)`.
    On a CPU whose cores are short the rest of the step is taken to wait for a core, too: for 0.8 to 2 times the
    share of it that the workers wait.

    ## Reference
    Pillow documentation, Image.draft; torchvision.io.decode_jpeg.
    """

    id = "data/slow-decode"
    evidence = "training"
    bottleneck = Bottleneck.DATA_PREPROCESSING
    explained_by = ("data/too-few-workers", "data/repeated-preprocessing")
    needs_device_times = False
    threshold = Threshold(0.05, "share of the step spent waiting for data")
    decode_share = Threshold(0.4, "share of a batch's time at lines that decode")
    samples = Threshold(8, "samples of such lines below which nothing is said")

    def check(self, facts: Facts) -> Outcome:
        """Judge whether decoding holds the loop back."""
        supply = waits(facts, self.threshold.value)
        if not isinstance(supply, Supply):
            return self.abstain(supply) if supply else None
        found = decoding(facts.workers.lines if facts.workers else ())
        if supply.dominant != "preprocess" or found is None:
            return None
        decoder, lines = found
        part_ms = min(total_ms(lines), supply.preprocess_ms)
        if part_ms < self.decode_share.value * supply.own_ms:
            return None
        if sum(line.samples for line in lines) < self.samples.value:
            return self.abstain("too few samples of the lines that decode were taken")
        gain = gain_of_shorter_batches(facts, supply, LEAST * part_ms, part_ms)
        if gain is None:
            return None
        return self.finding(
            title=(
                f"decoding {decoder.what} takes {ms(part_ms)} of the {ms(supply.batch_ms)} that a batch takes, and "
                f"{percent(supply.wait_share)} of each {ms(supply.step_ms)} step waits for batches"
            ),
            why=f"Batches are made by {maker(supply)}." + line_sentence(lines[0], facts) + caveat(facts),
            evidence={
                "data_wait_share": supply.wait_share,
                "decode_ms": part_ms,
                "batch_ms": supply.batch_ms,
                "step_ms": supply.step_ms,
                "num_workers": float(supply.processes),
                "samples": float(sum(line.samples for line in lines)),
            },
            fix=Fix.at(lines[0].site, decoder.summary, decoder.code),
            gain=gain,
            step_ms=supply.step_ms,
            severity=severity(facts, supply, gain),
        )
