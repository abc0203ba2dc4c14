"""The report's page as its readers have it: opened from a file in a headless browser, on a desk and on a phone."""

import re

import numpy as np
import pandas as pd
import pytest

from tests.skips import BROWSER, needs_browser

pytestmark = needs_browser

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser
        browser.close()


on_both = pytest.mark.parametrize("page", [DESK, PHONE], ids=["desk", "phone"], indirect=True)
"""For what depends on the size of the window or on touch; all else is read on a desk alone."""


@pytest.fixture
def page(request, browser, report):
    """The page; fails where the browser complains of it or where it asks for anything but itself."""
    window = getattr(request, "param", DESK)
    context = browser.new_context(viewport=window, has_touch=window is PHONE)
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    address = (report / "index.html").as_uri()
    page.goto(address)
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [address]
    context.close()


def choose(page, **choices):
    for name, label in choices.items():
        page.locator(f"#viewer-{name}").select_option(label=label)


def shown(page):
    """Name and number of each tile, in percent."""
    tiles = """[...document.querySelectorAll("#viewer-frames .tile")].map((tile) =>
        [".name", ".share"].map((part) => tile.querySelector(part).innerText))"""
    return dict(page.evaluate(tiles))


def options(page, name):
    return page.locator(f"#viewer-{name} option").all_inner_texts()


def rows_of(folder, page):
    """The saved rows of the cell that the page says it shows."""
    cell = re.search(r"Cell ([0-9a-f]{12})\.", page.locator("#viewer-said").inner_text()).group(1)
    return np.load(folder.with_name("grid") / "cells" / cell / "rows.npz"), cell


def expected(rows, clip, layer, direction, anchor):
    """What the saved row of a token gives to the class token and to each frame: token by token, from the layout."""
    k = [str(name) for name in rows["names"]].index(clip)
    d = [str(name) for name in rows["directions"]].index(direction)
    row = rows["P"][k, layer, d, anchor].astype(float)
    frames, down, across = rows["grid"]
    sums = {"class": 0.0} if len(rows["class_positions"]) else {}
    sums |= {f"frame {t}": 0.0 for t in range(frames)}
    patch = 0
    for token, weight in enumerate(row):
        if token in rows["class_positions"]:
            sums["class"] += weight
        else:
            sums[f"frame {patch // (down * across)}"] += weight
            patch += 1
    return sums


def agrees(page, sums):
    found = shown(page)
    assert list(found) == list(sums)
    for name, share in sums.items():
        digits = re.fullmatch(r"(\d+\.(\d+))\s%", found[name])
        # The last digit shown may round either way, and shares are packed in steps of 1 / 65535.
        assert float(digits[1]) == pytest.approx(100 * share, abs=0.5 * 10.0 ** -len(digits[2]) + 100 / 65535)


def test_the_viewer_shows_the_saved_rows_whatever_is_chosen(page, report):
    seen = set()
    for setting in options(page, "setting"):
        choose(page, setting=setting)
        for model in options(page, "model"):
            choose(page, model=model)
            rows, cell = rows_of(report, page)
            for clip in options(page, "clip")[:2]:
                choose(page, clip=clip)
                for layer in options(page, "layer"):
                    for direction in options(page, "direction"):
                        choose(page, layer=layer, direction=direction)
                        for anchor in (0, 7):
                            page.locator("#viewer-anchor").select_option(value=str(anchor))
                            agrees(page, expected(rows, clip.split(" (")[0], int(layer), direction, anchor))
                            seen.add((cell, layer, direction))
    cells = pd.read_parquet(report / "tables" / "cells.parquet")
    first = cells[cells["seed"] == 0]
    assert {cell for cell, _, _ in seen} == set(first["cell"])
    assert {direction for _, _, direction in seen} == {"forward", "backward", "both"}
    assert {layer for _, layer, _ in seen} == {"0", "1"}


@on_both
def test_the_anchor_moves_by_keys_and_by_touch(page, report):
    anchor = page.locator("#viewer-anchor")
    frames = page.locator("#viewer-frames")
    assert anchor.locator("option:checked").inner_text() == "class token"
    frames.focus()
    for key, at in [
        ("ArrowRight", "frame 0, row 0, column 0"),
        ("ArrowRight", "frame 0, row 0, column 1"),
        ("ArrowDown", "frame 0, row 1, column 1"),
        ("PageDown", "frame 1, row 1, column 1"),
        ("End", "frame 3, row 1, column 1"),
        ("ArrowRight", "frame 3, row 1, column 1"),
        ("ArrowLeft", "frame 3, row 1, column 0"),
        ("ArrowUp", "frame 3, row 0, column 0"),
        ("PageUp", "frame 2, row 0, column 0"),
        ("Home", "frame 0, row 0, column 0"),
    ]:
        page.keyboard.press(key)
        assert anchor.locator("option:checked").inner_text() == at, key
    canvas = frames.locator("canvas").nth(3)  # The class token's tile comes first: this is frame 2.
    size = canvas.bounding_box()
    for down, row in ((0.1, 0), (0.4, 1), (0.6, 0), (0.9, 1)):
        canvas.click(position={"x": 0.9 * size["width"], "y": down * size["height"]})
        assert anchor.locator("option:checked").inner_text() == f"frame 2, row {row}, column 1"
    rows, _ = rows_of(report, page)
    clip = options(page, "clip")[0].split(" (")[0]
    agrees(page, expected(rows, clip, 1, "backward", 1 + 2 * 4 + 3))
    frames.locator("canvas").nth(0).click()
    assert anchor.locator("option:checked").inner_text() == "class token"


def test_the_anchors_weights_are_drawn_in_the_colours_of_the_legend(page, report):
    """The brightest patch of the canvases is the row's largest weight, in the last colour of the legend."""
    page.locator("#viewer-anchor").select_option(value="6")
    rows, _ = rows_of(report, page)
    row = rows["P"][0, 1, [str(d) for d in rows["directions"]].index("backward"), 6].astype(float)
    brightest = int(np.argmax(row[1:]))
    pixel = """([canvas, x, y]) => [...document.querySelectorAll(canvas)[0].getContext("2d")
        .getImageData(x, y, 1, 1).data]"""
    legend = page.evaluate(pixel, ["#viewer-legend", 255, 8])
    at = f"#viewer-frames .tile:nth-child({2 + brightest // 4}) canvas"
    x, y = 24 * (brightest % 2) + 12, 2 * 24 + 6 + 24 * (brightest % 4 // 2) + 12
    assert page.evaluate(pixel, [at, x, y]) == legend
    said = page.locator("#viewer-most").inner_text()
    assert float(said.split()[0]) == pytest.approx(100 * row.max(), abs=0.06)


@on_both
def test_nothing_is_wider_than_the_window(page):
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window
    for svg in page.locator("figure > svg").all():
        box = svg.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= window


def test_every_figure_has_a_name_and_ids_are_unique(page, report):
    figures = page.get_by_role("img").all()
    drawn = page.locator("figure > svg").all()
    assert len(drawn) == len(list((report / "figures").glob("*.svg"))) > 5
    assert len(figures) >= len(drawn) + 5
    for svg in drawn:
        label = svg.get_attribute("aria-labelledby")
        assert len(page.locator(f"#{label}").text_content()) > 40
    for canvas in page.locator("canvas").all():
        assert canvas.get_attribute("aria-label")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    # Every reference within a figure leads to an element of the same figure.
    broken = page.evaluate(
        """[...document.querySelectorAll("figure > svg use")].filter((use) =>
            !use.closest("svg").querySelector(use.getAttribute("href"))).length"""
    )
    assert broken == 0


def test_it_prints(page, report):
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF-")
    sections = page.locator("section").count()
    assert len(re.findall(rb"/Type */Page\b", printed)) >= sections
    page.emulate_media(media="print")
    for svg in page.locator("figure > svg").all():
        assert svg.bounding_box()["height"] < 1000  # A4 less its margins is 1017 CSS pixels high.
