"""The page of a memory snapshot as a reader's browser shows it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(Path(__file__).parents[1] / "record"))

from snapshot_builder import MIB, TORCH, Allocator, Training, dump, frame, main, snapshot

pytestmark = pytest.mark.browser

DRAWN = "return [...document.querySelectorAll('[data-chart]')].every((e) => e.classList.contains('drawn'))"
BAD = '</script><script>window.broken=1</script><img src=x onerror="window.broken=1">'


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from profiler.report.snapshot.page import render_page
    from profiler.report.snapshot.pipeline import explain

    folder = tmp_path_factory.mktemp("snapshot")
    training = Training(Allocator(capacity=460 * MIB), keep_losses=True).build()
    with contextlib.suppress(MemoryError):
        training.steps(100)
    other = Training(Allocator(1)).build().steps(3).device
    other.alloc(80 * MIB, [frame(f"{TORCH}/nn/functional.py", 3, BAD), frame(f"/home/{BAD}.py", 3, BAD), *main(4)])
    path = dump(snapshot(training.device, other), folder / f"{'x' * 60}.pickle")
    (folder / "memory.html").write_text(render_page(explain(path)), encoding="utf-8")
    return folder / "memory.html"


@pytest.mark.parametrize("width", [400, 760, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_snapshot_is_drawn_whole_and_runs_nothing_else(chromium, page, width, scheme):
    chromium.get_log("browser")
    size = {"width": width, "height": 860, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    preference = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": preference})
    chromium.get(page.as_uri())
    WebDriverWait(chromium, 20, poll_frequency=0.05).until(lambda driver: driver.execute_script(DRAWN))
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert chromium.execute_script("return window.broken ?? null") is None
    assert chromium.execute_script("return document.querySelectorAll('[data-chart] .scatterlayer .trace').length") > 12
