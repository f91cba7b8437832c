import base64
import hashlib
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import sample_result

from profiler.report.html import render_html
from profiler.report.page import embedded_json


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.elements, self.links, self.ids, self.text, self.attributes = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [name for name, _ in attrs]
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "data"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text.append(data)

    def told(self):
        return re.sub("[ \n]+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def pages():
    return {name: render_html(make()) for name, make in sample_result.ALL.items()}


@pytest.mark.parametrize("name", sorted(sample_result.ALL))
def test_the_file_is_small_and_refers_to_nothing_outside_itself(pages, name):
    assert len(pages[name].encode()) <= 2_000_000
    page = Page(pages[name])
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    style = re.search(r"<style>(.*?)</style>", pages[name], re.S).group(1)
    assert "url(" not in style and "@import" not in style


def test_the_first_screen_holds_verdict_bar_finding_and_gain(pages):
    first = pages["data_bound"].split("<nav")[0]
    told = Page(first).told()
    assert "62\u202f% of every step goes to preparing the next batch" in told
    assert "39.4\u202fms" in told and "62.0\u202f%" in told
    assert "train.py:41" in told and "num_workers=5," in told
    assert "2.2\u20132.6\u00d7" in told and "24.5\u201328.3\u202fms a step" in told


def test_a_section_with_nothing_to_say_is_not_there(pages):
    assert {"memory", "workers", "findings", "operators", "top-finding"}.isdisjoint(Page(pages["too_short"]).ids)
    assert {"steps", "stages"}.isdisjoint(Page(pages["no_training"]).ids)
    assert {"findings", "steps", "stages", "workers", "memory", "run", "operators", "settings", "limits"} <= set(
        Page(pages["data_bound"]).ids
    )


def test_what_was_not_measured_is_named_with_its_reason(pages):
    told = Page(pages["too_short"]).told()
    assert "memory the run ended before the first reading" in told
    assert "data/too-few-workers fewer than 20 measured steps" in told
    assert "The cost per step was not measured." in told


def test_host_times_are_called_host_times_beside_the_bar_and_the_stages(pages):
    assert pages["host_times"].count("host times") + pages["host_times"].count("Host times") >= 4
    assert "host-times" in Page(pages["host_times"]).ids
    assert "host-times" not in Page(pages["data_bound"]).ids


def test_text_of_the_run_makes_no_element_and_no_attribute(pages):
    clean, attacked = Page(pages["data_bound"]), Page(pages["hostile"])
    assert attacked.elements.count("script") == clean.elements.count("script") == 3
    assert "img" not in attacked.elements
    assert not [name for name in attacked.attributes if name.startswith("on")]
    assert sample_result.HOSTILE.split("\u2028")[0] in "".join(attacked.text)


def test_embedded_json_cannot_leave_its_script_element():
    text = embedded_json({"a": "</script><!--\u2028\u2029&"})
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == {"a": "</script><!--\u2028\u2029&"}


def test_the_policy_allows_our_script_and_no_other(pages):
    for text in pages.values():
        script = re.search(r"<script>(.*?)</script>", text, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
        assert f"script-src &#39;sha256-{digest}&#39; blob:" in policy
        assert "default-src &#39;none&#39;" in policy
        assert "connect-src" not in policy


def test_a_million_steps_are_rendered_within_a_second():
    result = sample_result.million_steps()
    begun = time.perf_counter()
    render_html(result)
    assert time.perf_counter() - begun < 1


def test_rendering_imports_no_heavy_library():
    code = "import sys, profiler.report.html, profiler.report.terminal; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"plotly", "numpy", "torch", "polars"}.isdisjoint(loaded)


def test_a_setting_that_says_nothing_has_no_row() -> None:
    result = sample_result.healthy()
    values = {"frameworks": [], "instruments": {}, "cores": 2, "gc": {"enabled": True, "note": None}}
    facts = replace(result.facts, settings=replace(result.facts.settings, values=values))
    page = render_html(replace(result, facts=facts))
    assert "frameworks" not in page
    assert "instruments" not in page
    assert "enabled=yes" in page
    assert "None" not in page.split('id="settings"')[1].split("</section>")[0]
