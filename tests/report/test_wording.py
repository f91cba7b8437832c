import pytest
import sample_result

from profiler.analysis.site import Site
from profiler.report import wording


def plain(text):
    return text.replace(wording.THIN, " ").replace(wording.TO, "-").replace(wording.TIMES, "x")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (63.02, "63.0 ms"),
        (99.96, "100 ms"),
        (812.4, "812 ms"),
        (12_340.0, "12.3 s"),
        (1234.0, "1,234 ms"),
        (0.41, "0.41 ms"),
        (0.0412, "41 µs"),
        (0.0, "0 ms"),
    ],
)
def test_milliseconds_read_with_the_digits_that_count(value, text):
    assert plain(wording.ms(value)) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (21.43, 24.91, "21.4-24.9 ms"),
        (0.84, 1.02, "0.84-1.02 ms"),
        (5.0, 837.0, "5-837 ms"),
        (0.04, 0.05, "40-50 µs"),
        (24.91, 24.93, "24.9 ms"),
        (0.02, 310.0, "0.020-310 ms"),
    ],
)
def test_a_range_has_one_unit_and_as_many_decimals_at_both_ends(low, high, text):
    assert plain(wording.ms_range(low, high)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.42, "0.42 s"), (63.1, "63.1 s"), (252.0, "4 min 12 s"), (7500.0, "2 h 05 min"), (0.003, "3.00 ms")],
)
def test_stretches_of_a_run_read_as_people_say_them(value, text):
    assert plain(wording.seconds(value)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(312, "312 B"), (1_482_000_000, "1.38 GiB"), (1024**2 - 1, "1.00 MiB"), (-2048, "-2.00 KiB")]
)
def test_bytes_are_counted_in_powers_of_1024(value, text):
    assert plain(wording.byte_size(value)) == text


def test_a_tiny_share_is_not_called_nothing():
    assert plain(wording.share(0.0001)) == "<0.1 %"
    assert plain(wording.share(0.0)) == "0.0 %"
    assert plain(wording.share(0.654)) == "65.4 %"


def test_evidence_reads_by_the_unit_in_its_name():
    measured = {
        "wait_ms": 3.5,
        "idle_share": 0.25,
        "saved_bytes": 2048,
        "hook_us": 6.4,
        "num_workers": 0.0,
        "bytes_per_step": 2048,
    }
    told = [plain(" ".join(wording.evidence(name, value))) for name, value in measured.items()]
    assert told == [
        "wait 3.50 ms",
        "idle share 25.0 %",
        "saved 2.00 KiB",
        "hook 6.4 µs",
        "num workers 0",
        "size per step 2.00 KiB",
    ]


def test_a_file_is_shown_from_the_folder_of_the_run():
    assert wording.place(Site("/home/ada/birds/train.py", 41), "/home/ada/birds") == "train.py:41"
    assert wording.place(Site("/usr/lib/x.py", 1), "/home/ada/birds") == "/usr/lib/x.py:1"


def test_a_speedup_is_a_range_unless_its_ends_read_alike():
    assert plain(wording.times(2.24, 2.58)) == "2.2-2.6x"
    assert plain(wording.times(1.021, 1.024)) == "1.02x"


def test_control_and_direction_characters_become_visible():
    assert wording.printable("a\x1b[31m\u202egnp.\n") == "a\\x1b[31m\\u202egnp.\\n"
    assert wording.printable("Größe 日本 µs") == "Größe 日本 µs"


def test_the_overhead_is_not_told_when_it_was_not_measured():
    assert wording.overhead(sample_result.too_short().facts) is None
    assert plain(wording.overhead(sample_result.data_bound().facts) or "").startswith(
        "about 6.4 µs a step (<0.1 % of a step)"
    )


def test_a_number_stays_on_the_line_of_its_unit() -> None:
    text = wording.unbroken("works 12.0 ms of each 40 ms step (30 %), 1.5 GiB, 3 samples, 2 main loops, 8 B/s, 4 µs")
    thin = text.count(wording.THIN)
    assert thin == 5 and f"30{wording.THIN}%" in text and f"1.5{wording.THIN}GiB" in text
    assert "3 samples" in text and "2 main" in text and "8 B/s" in text
