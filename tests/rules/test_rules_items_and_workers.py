"""Data rules about what items are and what workers do with them, on facts made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from facts_builder import cpu, facts, line, loader, settings, stages, steps, workers

from profiler.analysis.facts import BatchContents, ItemFacts, ProcessFacts
from profiler.rules.base import Abstention, Finding, Severity
from profiler.rules.catalogue import judge
from profiler.rules.data.epoch_start import EpochStart
from profiler.rules.data.many_small_files import ManySmallFiles
from profiler.rules.data.python_objects import PythonObjects
from profiler.rules.data.repeated_preprocessing import RepeatedPreprocessing
from profiler.rules.data.slow_decode import SlowDecode
from profiler.rules.data.slow_sampler import SlowSampler
from profiler.rules.data.worker_threads import WorkerThreads

WAITS = {"data_wait": 40.0, "forward": 20.0, "backward": 36.0, "optimizer": 3.0, "other": 1.0}
SAME = ItemFacts(compared=32, same=32, bytes=150_000)
DECODES = line(21, 90.0, 'Image.open(path).convert("RGB")', "PIL.ImageFile.ImageFile.load")
OPENS = line(22, 90.0, "raw = path.read_bytes()", "pathlib.Path.read_bytes")
BUSY = ProcessFacts(2, 10, 0.5, 216.0, None, None, None)
OBJECTS = BatchContents(arrays=1, array_bytes=4096, objects=20_000, unpickle_ms=8.0, pickled_bytes=300_000)
RULES = (EpochStart, ManySmallFiles, PythonObjects, RepeatedPreprocessing, SlowDecode, SlowSampler, WorkerThreads)


def found(rule, its_facts) -> Finding:
    said = rule().check(its_facts)
    assert isinstance(said, Finding), said
    return said


def loading(its_workers=None, lines=(), idle=0.1, cores=2, **changes):
    """A step of 100 ms that waits 40 ms for 2 workers on 2 busy cores, whose batches take 190 ms."""
    its_workers = its_workers or workers(2, 0, 180, 10)
    return facts(
        WAITS,
        stages=stages(WAITS, {"data_wait": tuple(lines)}),
        workers=its_workers,
        settings=settings((loader(2, prefetch_factor=2, persistent_workers=True),)),
        machine=cpu(idle, cores),
        **changes,
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_healthy_run_and_one_without_a_loader_are_silent(rule):
    assert rule().check(facts()) is None
    assert rule().check(facts({"forward": 20.0, "backward": 36.0})) is None


# data/repeated-preprocessing


def test_items_that_never_change_are_to_be_kept_in_memory_where_they_fit():
    finding = found(RepeatedPreprocessing, loading(workers(2, 0, 180, 10, item_facts=SAME)))
    assert "All of 32 items that were compared" in finding.why
    assert "TensorDataset" in finding.fix.code  # 16,000 items of 150 kB: 2.2 GiB of 16 GiB
    assert (finding.fix.line, finding.severity) == (31, Severity.CRITICAL)
    # without them a batch takes 10 ms, and the step what it does besides waiting
    assert finding.gain.step_ms_low == pytest.approx(60.0)


def test_items_that_do_not_fit_are_to_be_kept_in_a_file():
    large = replace(SAME, bytes=2_000_000)
    finding = found(RepeatedPreprocessing, loading(workers(2, 0, 180, 10, item_facts=large)))
    assert "open_memmap" in finding.fix.code


def test_items_of_which_one_changed_are_not_called_the_same():
    assert RepeatedPreprocessing().check(loading(workers(2, 0, 180, 10, item_facts=replace(SAME, same=31)))) is None


def test_items_seen_in_one_epoch_alone_can_not_be_compared():
    assert isinstance(RepeatedPreprocessing().check(loading()), Abstention)
    few = replace(SAME, compared=7, same=7)
    assert isinstance(RepeatedPreprocessing().check(loading(workers(2, 0, 180, 10, item_facts=few))), Abstention)


def test_what_knows_more_of_the_items_speaks_for_heavy_preprocessing():
    judgement = judge(loading(workers(2, 0, 180, 10, item_facts=SAME)))
    assert judgement.findings[0].rule == "data/repeated-preprocessing"
    assert "data/heavy-preprocessing" in [finding.rule for finding, _ in judgement.folded]


# data/slow-decode


def test_decoding_is_named_with_its_library_and_its_line():
    finding = found(SlowDecode, loading(workers(2, 0, 180, 10, lines=(DECODES,))))
    assert finding.title.startswith("decoding pictures takes 90 ms of the 190 ms that a batch takes")
    assert finding.fix.line == 21
    assert "draft" in finding.fix.code
    assert finding.gain.step_ms_high > finding.gain.step_ms_low >= 60.0 * 0.999


@pytest.mark.parametrize(
    ("source", "leaf", "what"),
    [
        ("x = cv2.imdecode(raw, 1)", "", "pictures"),
        ("x = decode_jpeg(raw)", "torchvision.io.image.decode_jpeg", "pictures"),
        ("w, r = torchaudio.load(path)", "", "sound"),
        ("frames = reader.get_batch(at)", "decord.video_reader.VideoReader.get_batch", "video"),
        ("a = np.load(path)['x']", "zipfile.ZipExtFile._read1", "compressed files"),
    ],
)
def test_what_decodes_is_told_from_the_text_or_from_what_ran(source, leaf, what):
    finding = found(SlowDecode, loading(workers(2, 0, 180, 10, lines=(line(21, 90.0, source, leaf),))))
    assert finding.title.startswith(f"decoding {what} takes")


def test_little_decoding_and_few_samples_are_not_judged():
    little = replace(DECODES, ms_per_step=70.0)
    assert SlowDecode().check(loading(workers(2, 0, 180, 10, lines=(little,)))) is None
    rare = replace(DECODES, samples=7)
    assert isinstance(SlowDecode().check(loading(workers(2, 0, 180, 10, lines=(rare,)))), Abstention)
    stored = loading(workers(2, 150, 30, 10, lines=(DECODES,)))
    assert SlowDecode().check(stored) is None  # it waits for the storage


# data/many-small-files


def opening(calls=1284.0, chars=164_000.0, lines=(OPENS,), **changes):
    return loading(workers(2, 0, 180, 10, lines=lines, read_calls=calls, read_chars=chars, **changes))


def test_a_batch_of_many_small_reads_is_told():
    finding = found(ManySmallFiles, opening())
    assert "1,280 small reads, 128 B each" in finding.title
    assert finding.fix.line == 22
    assert "memmap" in finding.fix.code


def test_few_reads_and_large_ones_are_another_matter():
    assert ManySmallFiles().check(opening(calls=35.0)) is None
    assert ManySmallFiles().check(opening(calls=36.0)) is not None
    assert ManySmallFiles().check(opening(calls=104.0, chars=100 * 64 * 1024)) is None
    assert ManySmallFiles().check(opening(lines=())) is None
    assert isinstance(ManySmallFiles().check(opening(calls=None, chars=None)), Abstention)


def test_to_open_a_picture_is_not_to_open_a_file():
    assert ManySmallFiles().check(opening(lines=(replace(DECODES, leaf=""),))) is None


# data/worker-threads


def test_threads_of_libraries_are_counted_against_the_cores():
    finding = found(WorkerThreads, loading(workers(2, 0, 180, 10, process_facts=BUSY)))
    assert finding.title.startswith("50 % of the workers' CPU time is in threads of libraries: about 4 busy threads")
    assert "OPENBLAS_NUM_THREADS=1" in finding.fix.code
    assert finding.gain.step_ms_high <= 100.0
    judgement = judge(loading(workers(2, 0, 180, 10, process_facts=BUSY)))
    assert "data/heavy-preprocessing" in [finding.rule for finding, _ in judgement.folded]


def test_threads_that_have_their_cores_are_let_be():
    assert WorkerThreads().check(loading(workers(2, 0, 180, 10, process_facts=BUSY), cores=4)) is None
    assert WorkerThreads().check(loading(workers(2, 0, 180, 10, process_facts=BUSY), idle=0.6)) is None
    calm = replace(BUSY, other_cpu_share=0.2)
    assert WorkerThreads().check(loading(workers(2, 0, 180, 10, process_facts=calm))) is None
    sleeping = replace(BUSY, cpu_ms=4.0)  # the queue's thread beside a loop that waits
    assert WorkerThreads().check(loading(workers(2, 0, 180, 10, process_facts=sleeping))) is None
    assert isinstance(WorkerThreads().check(loading()), Abstention)


# data/epoch-start


def starting(starts=20, extra_ms=200.0, its_workers=None):
    counted = replace(steps(100.0), epoch_starts=starts, epoch_start_ms=extra_ms)
    return loading(its_workers or workers(2, 0, 60, 0), steps=counted)


def test_epochs_that_begin_with_a_wait_are_counted():
    finding = found(EpochStart, starting())
    assert finding.title == (
        "each epoch of about 25 steps begins with a wait of 200 ms: 8.0 % of the mean step of 100 ms"
    )
    assert finding.gain.step_ms_low == pytest.approx(92.0)
    assert finding.gain.step_ms_high == pytest.approx(100 - 0.7 * 8)


def test_few_epochs_short_waits_and_workers_that_never_keep_up_are_silent():
    assert EpochStart().check(starting(starts=2, extra_ms=2000.0)) is None
    assert EpochStart().check(starting(extra_ms=120.0)) is None
    assert EpochStart().check(starting(its_workers=workers(2, 0, 180, 10))) is None
    assert EpochStart().check(starting(its_workers=workers(0, 0, 40, 0))) is None


# data/python-objects


def test_unpickling_is_told_by_how_long_it_took_once():
    finding = found(PythonObjects, loading(workers(2, 0, 60, 0, contents=OBJECTS)))
    assert finding.title == "8.0 % of each 100 ms step unpickles batches of 20,000 Python objects"
    assert (finding.gain.step_ms_low, finding.gain.step_ms_high) == pytest.approx((84.0, 94.4))


def test_few_objects_or_cheap_ones_are_silent():
    for contents in (
        replace(OBJECTS, objects=499),
        replace(OBJECTS, unpickle_ms=4.0),
        replace(OBJECTS, unpickle_ms=None),
    ):
        assert PythonObjects().check(loading(workers(2, 0, 60, 0, contents=contents))) is None
    assert PythonObjects().check(loading(workers(0, 0, 40, 0, contents=OBJECTS))) is None
    assert isinstance(PythonObjects().check(loading(workers(2, 0, 60, 0))), Abstention)


# data/slow-sampler


def test_a_sampler_that_keeps_the_loop_waiting_is_named():
    draws = line(52, 12.0, "place = bisect(self.upto, value)", function="__iter__")
    finding = found(SlowSampler, loading(workers(2, 0, 60, 0), lines=(draws, line(40, 28.0))))
    assert finding.title.startswith("12 % of each 100 ms step works out which items come next, at train.py:52")
    assert finding.fix.line == 52


def test_the_line_that_waits_and_the_data_sets_own_lines_are_no_sampler():
    assert SlowSampler().check(loading(workers(2, 0, 60, 0), lines=(line(40, 40.0),))) is None
    draws = line(52, 12.0, "item = decode(index)", function="__getitem__")
    assert SlowSampler().check(loading(workers(0, 0, 40, 0), lines=(draws,))) is None
    rare = replace(draws, samples=7)
    assert isinstance(SlowSampler().check(loading(workers(2, 0, 60, 0), lines=(rare,))), Abstention)
