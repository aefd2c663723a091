"""The report in a real browser, Chromium without a window: sorting, plots, a phone, dark and light, nothing fetched."""

from __future__ import annotations

import os
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.reporting.page import write_report

from .example import EVIL, example

REQUIRED = os.environ.get("RECBOLE_DIFFUSION_BROWSER") == "required"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def missing(reason: str) -> None:
    """Skip, or fail where a browser is required."""
    if REQUIRED:
        pytest.fail(f"{reason}, and RECBOLE_DIFFUSION_BROWSER=required")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed (pip install 'recbole-diffusion[test]')")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing("no Chromium here (apt-get install chromium, or name one with CHROMIUM=PATH)")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("suite")
    return write_report(example(folder), folder).as_uri()


class Opened:
    """The page, and everything that it complained about or asked for."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def first_column(self) -> list[str]:
        """Model, or the line below it, of the first table."""
        return [text.strip() for text in self.page.locator("#table-1-0 tbody th").all_inner_texts()]


BELOW = ["DMI in the DMI paper, Table 2", "difference to the DMI paper, Table 2"]


def test_sorting(browser: Any, address: str) -> None:
    with Opened(browser, address) as opened:
        page, order = opened.page, opened.first_column
        assert order() == ["SASRec", "DMI", *BELOW, EVIL]
        head = page.locator("#table-1-0 thead th", has_text="NDCG@10")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert order() == ["DMI", *BELOW, "SASRec", EVIL]
        assert page.locator("#said").inner_text() == "sorted by NDCG@10 %, descending"
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert order() == [EVIL, "SASRec", "DMI", *BELOW]
        page.keyboard.press("Enter")  # the button has the focus: back to the suite's order
        assert head.get_attribute("aria-sort") is None
        assert order() == ["SASRec", "DMI", *BELOW, EVIL]
        model = page.locator("#table-1-0 thead th", has_text="Model")
        model.get_by_role("button").press("Space")
        assert model.get_attribute("aria-sort") == "ascending"
        assert order() == [EVIL, "DMI", *BELOW, "SASRec"]
        # rows without a value are last, both ways
        page.locator("#runs-1 summary").click()
        runs = page.locator("#runs-1 table")
        for _ in range(2):
            runs.locator("thead th", has_text="HR@10").get_by_role("button").click()
            assert runs.locator("tbody").last.locator("td").nth(1).inner_text() == "failed"
        assert opened.complaints == []
        assert opened.requests == [address]


def test_a_figure_leads_to_its_runs(browser: Any, address: str) -> None:
    with Opened(browser, address) as opened:
        page = opened.page
        row = page.locator("#table-1-0-2")  # the first of DMI's runs, folded
        assert not row.is_visible()
        page.locator("#table-1-0 tbody tr", has_text="32.50").locator("a", has_text="32.50").click()
        assert page.locator("#runs-1").get_attribute("open") is not None
        assert row.is_visible() and row.locator("th").inner_text() == "DMI"
        assert opened.complaints == []


def test_plots(browser: Any, address: str) -> None:
    with Opened(browser, address) as opened:
        page = opened.page
        bars = page.locator(".plot.bars").first
        assert bars.locator("rect.bar").count() == 3
        assert bars.locator("circle.point").count() == 5
        assert "NDCG@10, %" in bars.inner_text() or "NDCG@10, %" in bars.locator("svg").text_content()
        assert "16.25 ± 1.77" in bars.locator("svg").text_content()
        curves = page.locator(".plot.curves")
        assert curves.locator("path.curve").count() == 5
        page.get_by_label("Metric of the plots").select_option(label="HR@10")
        assert "32.50 ± 3.54" in bars.locator("svg").text_content()
        assert "Test HR@10" in page.locator("figure").first.inner_text()
        assert "Test HR@10" in page.locator("figure.single").inner_text()  # of the further evaluation, too
        assert bars.locator("path.diamond").count() == 1
        assert "HR@10, %" in curves.locator("svg").text_content()
        # widths of bars are in proportion
        widths = [float(bar.get_attribute("width")) for bar in bars.locator("rect.bar").all()]
        assert widths[1] / widths[0] == pytest.approx(32.5 / 12.5, rel=1e-3)
        legend = page.locator(".legend button", has_text="DMI")
        legend.click()
        assert legend.get_attribute("aria-pressed") == "false"
        assert curves.locator("path.curve").count() == 2 and bars.locator("rect.bar").count() == 2
        legend.click()
        assert curves.locator("path.curve").count() == 5
        box = curves.locator("path.marker").last.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert "epoch 6" in page.locator(".readout").inner_text()
        assert page.evaluate("window.broken") is None
        assert EVIL in page.locator(".about").inner_text()
        assert opened.complaints == []


LUMINANCE = """
(element) => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  const ground = (one) => getComputedStyle(one).backgroundColor;
  while (behind && /rgba\\(.*, 0\\)|transparent/.test(ground(behind))) behind = behind.parentElement;
  const [one, other] = [light(getComputedStyle(element).color), light(behind ? ground(behind) : "rgb(255, 255, 255)")];
  return [other, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)];
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_light_and_dark(browser: Any, address: str, scheme: str, tmp_path: Path) -> None:
    with Opened(browser, address, color_scheme=scheme) as opened:
        page = opened.page
        for place in ("body", ".about", ".protocol", ".summary li", "nav a", "#table-1-0 td", "#table-1-0 .spread",
                      ".below td", "thead th", ".notes p", "figcaption", "summary", ".notice.warning a", "pre code",
                      ".legend button", ".unit"):  # fmt: skip
            ground, contrast = page.locator(place).first.evaluate(LUMINANCE)
            assert contrast >= 4.5, place
            assert (ground > 0.5) == (scheme == "light"), place
        picture = tmp_path / "report.png"
        page.screenshot(path=picture, full_page=True)
        content = picture.read_bytes()
        assert struct.unpack(">II", content[16:24])[0] == 1280 and len(content) > 40_000
        page.emulate_media(media="print", color_scheme=scheme)
        assert page.locator("body").evaluate(LUMINANCE)[0] == pytest.approx(1.0)  # paper is white
        assert opened.complaints == []


def test_a_phone(browser: Any, address: str) -> None:
    options = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "device_scale_factor": 2}
    with Opened(browser, address, **options, reduced_motion="reduce") as opened:
        page = opened.page
        for details in page.locator("details").all():
            details.evaluate("(element) => { element.open = true; }")
        wide, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert seen == 360 and wide <= seen
        box = page.locator("#runs-1 .scroll")
        assert box.evaluate("(element) => element.scrollWidth > element.clientWidth")
        for target in page.locator("button, select, summary, nav a").all():
            size = target.bounding_box()
            assert size["height"] >= 40 and size["width"] >= 24, target.inner_text()
        for plot in page.locator(".plot svg").all():
            assert plot.bounding_box()["width"] <= 360 - 2 * 14
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
        page.locator("#table-1-0 thead th", has_text="HR@10").get_by_role("button").tap()
        assert opened.first_column()[0] == "DMI"
        # turned around, the plots are drawn anew
        page.set_viewport_size({"width": 740, "height": 360})
        end = time.monotonic() + 10  # not by wait_for_function: the page's policy forbids the eval that it polls with
        width = "document.querySelector('.plot svg')?.getBoundingClientRect().width ?? 0"
        while page.evaluate(width) <= 500:
            assert time.monotonic() < end, "the plots keep the width that they had"
            page.wait_for_timeout(20)
        assert opened.complaints == []
