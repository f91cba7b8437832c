"""The report as a reader's browser shows it."""

from __future__ import annotations

import base64
import json
import re

import pytest
import sample_result

pytestmark = pytest.mark.browser

DRAWN = "return [...document.querySelectorAll('[data-chart]')].every((e) => e.classList.contains('drawn'))"


class Reader:
    """Opens reports at a width, in a colour scheme, on screen or on paper."""

    def __init__(self, driver, files):
        self.driver, self.files = driver, files

    def open(self, name, width=1280, height=860, scheme="light", media="screen", charts=True):
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.cdp(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.driver.get(self.files[name].as_uri())
        if charts:
            self.wait(DRAWN)

    def cdp(self, method, **parameters):
        return self.driver.execute_cdp_cmd(method, parameters)

    def ask(self, script):
        return self.driver.execute_script(script)

    def wait(self, script):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20, poll_frequency=0.05).until(lambda driver: driver.execute_script(script))


@pytest.fixture
def reader(chromium, report_files):
    reader = Reader(chromium, report_files)
    yield reader
    reader.cdp("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("name", sorted(sample_result.ALL))
def test_a_report_opens_without_a_complaint_and_without_a_request(reader, name):
    reader.open(name)
    assert reader.driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in reader.driver.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [request["request"]["url"] for request in sent if request["documentURL"].startswith("file:")]
    assert any(url.startswith("file:") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []


def test_every_stage_is_drawn_over_the_run(reader):
    reader.open("data_bound")
    assert reader.ask("return document.querySelectorAll('#chart-timeline .scatterlayer .trace').length") == 7
    assert reader.ask("return document.querySelectorAll('#chart-histogram .scatterlayer .trace').length") == 1
    assert reader.ask("return document.querySelectorAll('#chart-memory .scatterlayer .trace').length") == 1


@pytest.mark.parametrize("name", ["data_bound", "million_steps"])
def test_the_first_content_shows_within_a_second(reader, name):
    reader.open(name)
    painted = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
    assert reader.ask(painted) < 1000


def test_the_first_screen_holds_verdict_bar_and_the_code_to_paste(reader):
    reader.open("data_bound")
    bottoms = reader.ask(
        "return ['h1', '.bar.tall', '#top-finding pre', '#top-finding .gain']"
        ".map((s) => document.querySelector(s).getBoundingClientRect().bottom)"
    )
    assert max(bottoms) < 860


def test_the_first_screen_needs_no_javascript(reader):
    reader.cdp("Emulation.setScriptExecutionDisabled", value=True)
    reader.open("data_bound", charts=False)
    from selenium.webdriver.common.by import By

    assert "62\u202f% of every step" in reader.driver.find_element(By.TAG_NAME, "h1").text
    bars = reader.driver.find_elements(By.CSS_SELECTOR, ".bar.tall > div")
    widths = [bar.rect["width"] for bar in bars]
    assert [round(width / sum(widths), 2) for width in widths] == [0.62, 0.14, 0.17, 0.05, 0.02]
    assert "This chart needs JavaScript" in reader.driver.find_element(By.ID, "chart-timeline").text
    assert not any(button.is_displayed() for button in reader.driver.find_elements(By.CLASS_NAME, "copy"))


def test_an_old_browser_is_told_why_it_sees_no_chart(reader):
    added = reader.cdp("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    try:
        reader.open("data_bound", charts=False)
        reader.wait("return document.querySelector('.chart .wait').textContent.includes('DecompressionStream')")
    finally:
        reader.cdp("Page.removeScriptToEvaluateOnNewDocument", **added)


def test_hostile_names_run_nothing_and_add_no_element(reader):
    reader.open("hostile")
    assert reader.ask("return window.broken ?? null") is None
    assert reader.ask("return document.querySelectorAll('img, .chart b, iframe, object').length") == 0
    assert reader.ask("return document.querySelectorAll('body script').length") == 3
    legend = reader.ask("return document.querySelector('#chart-timeline .legend').textContent")
    assert '</script><script>window.broken=1</script><img src=x onerror="window.broken=1">' in legend


def test_the_policy_stops_a_script_that_got_in_all_the_same(reader):
    reader.open("data_bound")
    reader.ask("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken=1\">')")
    reader.ask("const s = document.createElement('script'); s.textContent = 'window.broken=1'; document.body.append(s)")
    reader.wait("return document.querySelector('body > img').complete")
    assert reader.ask("return window.broken ?? null") is None


@pytest.mark.parametrize("name", sorted(sample_result.ALL))
def test_nothing_runs_over_the_side(reader, name):
    for width in (400, 760, 1280):
        reader.open(name, width=width, charts=width == 400)
        assert reader.ask("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_in_dark(reader, scheme):
    reader.open("host_times", scheme=scheme)
    pairs = reader.ask(
        """
        const ground = getComputedStyle(document.body).backgroundColor;
        return ['h1', '.step-head .dim', '.chip', '.notice', '#steps p', 'th', '#chart-timeline text']
            .map((selector) => {
                const style = getComputedStyle(document.querySelector(selector));
                const own = style.backgroundColor;
                const ink = selector.endsWith(' text') ? style.fill : style.color;
                return [selector, ink, own === 'rgba(0, 0, 0, 0)' ? ground : own];
            });
        """
    )
    for selector, ink, ground in pairs:
        light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (selector, ink, ground)
    body = luminance(reader.ask("return getComputedStyle(document.body).backgroundColor"))
    assert body > 0.9 if scheme == "light" else body < 0.05


def luminance(colour):
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_on_paper_it_is_light_whole_and_without_buttons(reader):
    reader.open("data_bound", width=700, scheme="dark", media="print")
    assert luminance(reader.ask("return getComputedStyle(document.body).backgroundColor")) == 1
    assert reader.ask("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert reader.ask("return getComputedStyle(document.querySelector('.copy')).display") == "none"
    reader.cdp("Emulation.setEmulatedMedia", media="")
    printed = base64.b64decode(reader.cdp("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])
    assert printed.startswith(b"%PDF-")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 7


def test_a_chart_fits_the_paper_though_it_was_drawn_for_a_wide_screen(reader):
    reader.open("data_bound", width=1280)
    reader.cdp("Emulation.setEmulatedMedia", media="print")
    reader.cdp("Emulation.setDeviceMetricsOverride", width=680, height=900, deviceScaleFactor=1, mobile=False)
    right = "return document.querySelector('#chart-timeline .main-svg').getBoundingClientRect().right"
    assert reader.ask(right) <= 680


def test_the_button_copies_the_code_to_paste(reader):
    reader.open("data_bound")
    reader.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    from selenium.webdriver.common.by import By

    reader.driver.find_element(By.CSS_SELECTOR, "#top-finding .copy").click()
    reader.wait("return document.querySelector('#top-finding .copy').textContent === 'Copied'")
    copied = reader.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0], arguments[0])")
    assert copied == sample_result.data_bound().judgement.findings[0].fix.code
