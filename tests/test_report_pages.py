"""The pages in a real browser, from disk: what works, what is inert, what is never asked for."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import clipgap
from clipgap.__main__ import main
from clipgap.files.settings import HEADER, settings_file
from clipgap.keep.lists import open_keep
from clipgap.select.labels import Condition, Where
from tests.report_worlds import HOSTILE, Study, shared_study

REQUIRED = "CLIPGAP_REQUIRE_CHROMIUM"
"""Set where a missing browser is a failure, as in CI; elsewhere these tests are skipped."""

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()
TITLE = 'A study <script>document.title="owned"</script>'

PAGES = ("index.html", "gallery.html", "thresholds.html", "split-1.html")

sync_api = pytest.importorskip("playwright.sync_api")


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "no Chromium: on Debian, apt-get install chromium"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return shared_study(tmp_path_factory)


@pytest.fixture(scope="module")
def report(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = study.inputs
    # Names of users end up in pages too.
    inputs["splits"] = {**inputs["splits"], HOSTILE[0]: study.folder / "rand-70"}
    folder = tmp_path_factory.mktemp("pages")
    keep = Path(shutil.copytree(study.folder / "sketch-pruned", folder / "sketch-pruned"))
    assert main(["verify", str(keep), "-q"]) == 0
    settings_file(keep).write_text(f"{HEADER} clipgap split\n\nprune = ['sketch']\n")
    inputs["splits"]["sketch-pruned"] = keep
    # The images of the reference are not there: placeholders.
    inputs["images"] = {name: path for name, path in inputs["images"].items() if name != "curated"}
    return clipgap.report(**inputs, out=folder / "r", title=TITLE).path


@pytest.fixture(scope="module")
def single(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one file, alone in a folder, as it lies there after it was mailed."""
    folder = tmp_path_factory.mktemp("single")
    inputs = {**study.inputs, "splits": {HOSTILE[0]: study.folder / "rand-70"}}
    made = clipgap.report(**inputs, out=folder / "r", title=TITLE, format="single", gallery=20)
    assert sorted(path.name for path in made.path.iterdir()) == [
        *("manifest.json", "report.html", "report.json")
    ]
    assert clipgap.verify(made.path).ok
    return Path(shutil.copytree(made.path, folder / "mailed", ignore=lambda *_: ["report.json"]))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, headless=True)
        yield started
        started.close()


class Watched:
    """A page that remembers what it asked for and what went wrong."""

    def __init__(self, context: Any, folder: Path) -> None:
        self.page = context.new_page()
        self.folder = folder
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", lambda request: self.wrong.append(request.url))
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, name: str) -> Any:
        file, _, state = name.partition("#")
        self.page.goto(f"{(self.folder / file).as_uri()}#{state}")
        for view, part in (("gallery", ".point"), ("thresholds", ".pair")):
            if name.startswith((f"{view}.html", f"report.html#{view}")):
                self.page.wait_for_selector(f"{part}:visible")
        return self.page

    def check(self) -> None:
        assert self.wrong == []
        ours = (self.folder.as_uri(), "data:image/webp;")
        assert [url for url in self.asked if not url.startswith(ours)] == []
        assert "owned" not in self.page.evaluate("document.title").replace(TITLE, "")
        assert self.page.locator("body script:not([src])").count() == 0


@pytest.fixture
def watched(browser: Any, report: Path) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    seen = Watched(context, report)
    yield seen
    seen.check()
    context.close()


def turned(page: Any, act: Any) -> None:
    """Do something that turns the gallery's page, and wait until it has."""
    before = page.evaluate("document.body.dataset.turned")
    act()
    page.wait_for_function("before => document.body.dataset.turned !== before", arg=before)


def first_key(page: Any) -> str:
    return str(page.locator(".point .id").first.text_content())


def test_every_page_opens_and_is_reached(watched: Watched, tmp_path: Path) -> None:
    page = watched.open("index.html")
    assert page.locator("h1").text_content() == TITLE
    assert page.locator("svg.chart").count() >= 9
    page.screenshot(path=tmp_path / "index.png", full_page=True)
    page.get_by_role("link", name="Gallery").click()
    page.wait_for_selector(".point")
    page.screenshot(path=tmp_path / "gallery.png")
    page.get_by_role("link", name="Splits", exact=True).click()
    assert page.locator("h1").text_content() == "sketch-pruned"
    page.screenshot(path=tmp_path / "split.png", full_page=True)
    page.locator(".tabs a").last.click()
    assert page.locator("h1").text_content() == HOSTILE[0]
    page.get_by_role("link", name="Report", exact=True).click()
    page.get_by_role("link", name="near-90").first.click()
    assert page.locator("h1").text_content() == "near-90"


def test_tables_sort_by_what_they_hold(watched: Watched, report: Path) -> None:
    page = watched.open("index.html")
    lines = list(csv.DictReader((report / "tables/accuracies.csv").open()))
    table = page.locator("#accuracies table")

    def column(number: int) -> list[str]:
        cells = table.locator(f"tbody td:nth-child({number})")
        return [str(cell.get_attribute("data-sort")) for cell in cells.all()]

    assert [float(v) for v in column(4)] == [float(line["val"]) for line in lines]
    head = table.locator("th", has_text="val")
    for order, reverse in (("descending", True), ("ascending", False)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        values = [float(v) for v in column(4)]
        assert values == sorted(values, reverse=reverse)
    table.locator("th").first.get_by_role("button").click()
    assert column(1) == sorted(line["training set"] for line in lines)
    removed = table.locator("th", has_text="removed")
    removed.get_by_role("button").click()
    assert column(3)[-1] == ""  # the whole set was not cut: nothing to sort by comes last
    assert head.get_attribute("aria-sort") == "none"


def test_dark_and_light(watched: Watched, browser: Any, report: Path, tmp_path: Path) -> None:
    page = watched.open("index.html")

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    page.locator("#theme").click()
    dark = ground()
    assert dark != light
    page.screenshot(path=tmp_path / "dark.png", full_page=True)
    page.reload()
    assert ground() == dark  # remembered
    page.locator("#theme").click()
    assert ground() == light
    context = browser.new_context(color_scheme="dark")
    other = Watched(context, report)
    page = other.open("index.html")
    assert ground() == dark  # as the system has it
    line = "getComputedStyle(document.querySelector('.area')).stroke"
    assert page.evaluate(line) != watched.page.evaluate(line)
    other.check()
    context.close()


def test_gallery_turns_by_keyboard(watched: Watched) -> None:
    page = watched.open("gallery.html#set=val")
    keys = [first_key(page)]
    assert page.locator(".point").count() == 8
    for key in ("ArrowRight", "PageDown"):
        turned(page, lambda key=key: page.keyboard.press(key))
        keys.append(first_key(page))
    assert len(set(keys)) == 3
    turned(page, lambda: page.keyboard.press("ArrowLeft"))
    assert first_key(page) == keys[1]
    turned(page, lambda: page.keyboard.press("End"))
    assert page.locator("#place").text_content() == "12 / 12"
    assert page.locator(".point").count() == 90 - 11 * 8
    assert page.locator("#next").is_disabled()
    turned(page, lambda: page.keyboard.press("Home"))
    assert first_key(page) == keys[0]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.querySelector('.id').textContent")
    assert focused == page.locator(".point .id").nth(1).text_content()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.press("ArrowRight")  # belongs to the field now
    page.keyboard.press("Escape")
    assert first_key(page) == keys[0]


def test_gallery_filters(watched: Watched, study: Study) -> None:
    page = watched.open("gallery.html")
    sketch = clipgap.open_scan(study.folder / "scan").tau("sketch")
    turned(page, lambda: page.select_option("#set", "1"))
    assert page.locator("#status").text_content() == "110 test points"
    turned(page, lambda: page.fill("#low", "0.9"))
    wanted = int((sketch.round(6) >= 0.9).sum())
    assert page.locator("#status").text_content() == f"{wanted} of 110 test points"
    turned(page, lambda: page.fill("#high", "0.95"))
    wanted = int(((sketch.round(6) >= 0.9) & (sketch.round(6) <= 0.95)).sum())
    assert page.locator("#status").text_content() == f"{wanted} of 110 test points"
    turned(page, lambda: page.fill("#low", "2"))
    assert "No test point" in str(page.locator("#points").text_content())
    turned(page, lambda: page.fill("#low", ""))
    turned(page, lambda: page.fill("#high", ""))
    turned(page, lambda: page.select_option("#label", label="ring"))
    assert set(page.locator(".point .label").all_text_contents()) == {"ring"}
    turned(page, lambda: page.select_option("#label", ""))
    turned(page, lambda: page.check("#moved"))
    assert page.locator(".point").first.locator(".gone").count() > 0
    turned(page, lambda: page.uncheck("#moved"))
    highest = first_key(page)
    turned(page, lambda: page.select_option("#order", "rising"))
    assert first_key(page) != highest


def test_gallery_opens_on_the_largest_gap(watched: Watched, report: Path) -> None:
    page = watched.open("gallery.html")
    tests = json.loads((report / "report.json").read_text())["tests"]
    gaps = {
        t["name"]: t["training"]["web"]["mean"] - t["training"]["curated"]["mean"] for t in tests
    }
    shown = str(page.locator("#set option:checked").text_content())
    assert shown.startswith(f"{max(gaps, key=lambda name: gaps[name])} (")


def test_every_state_of_the_gallery_has_an_address(watched: Watched) -> None:
    page = watched.open("gallery.html#set=val")
    turned(page, lambda: page.select_option("#label", label="ring"))
    turned(page, lambda: page.fill("#low", "0.5"))
    turned(page, lambda: page.select_option("#order", "gap"))
    turned(page, lambda: page.select_option("#split", label="near-90"))
    page.locator("#next").click()
    page.wait_for_function("location.hash.includes('page=2')")
    before = (first_key(page), page.locator("#status").text_content(), page.url)
    page.goto("about:blank")
    page.goto(before[2])
    page.wait_for_selector(".point")
    assert (first_key(page), page.locator("#status").text_content(), page.url) == before
    assert page.locator("#split option:checked").text_content() == "near-90"
    # What makes no sense is left aside.
    turned(page, lambda: watched.open("gallery.html#set=nope&label=x&split=y&order=z&page=w"))
    assert page.locator("#place").text_content() == "1 / 14"


def test_gallery_finds_keys_and_captions(watched: Watched, report: Path) -> None:
    page = watched.open("gallery.html#set=val")
    turned(page, lambda: page.fill("#find", "VAL-000007"))
    assert page.locator("#status").text_content() == "1 of 90 test points"
    assert first_key(page) == "val-000007"
    near = page.locator("[data-key]").first.get_attribute("data-key")
    turned(page, lambda: page.fill("#find", str(near)))
    assert "val-000007" in page.locator(".point .id").all_text_contents()
    turned(page, lambda: page.fill("#find", "picture of a cross"))
    for strips in page.locator(".point").all():
        captions = strips.locator(".caption").all_text_contents()
        assert any("picture of a cross" in caption for caption in captions)
    turned(page, lambda: page.fill("#find", "nobody wrote this"))
    assert "No test point" in str(page.locator("#points").text_content())


def test_gallery_is_reviewed_by_keyboard(watched: Watched, study: Study, tmp_path: Path) -> None:
    """The decisions are labels by which `split` cuts."""
    page = watched.open("gallery.html#set=sketch")
    looks = page.locator("[data-key] .look")
    keys = [str(k.get_attribute("data-key")) for k in page.locator("[data-key]").all()[:3]]
    for n, letter in enumerate("dkd"):
        looks.nth(n).focus()
        page.keyboard.press(letter)
    page.keyboard.press("u")
    assert page.locator("#decided").text_content() == "Reviewed: 1 to drop, 1 to keep."
    assert page.locator(f"[data-key='{keys[0]}'] .decision").first.text_content() == "✗ drop"
    page.reload()
    page.wait_for_selector(".point")
    assert page.locator("#decided").text_content() == "Reviewed: 1 to drop, 1 to keep."
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "review.csv")
    labels = Where(str(tmp_path / "review.csv"), (Condition.parse("decision=drop"),))
    dropped = clipgap.split(study.folder / "scan", labels, out=tmp_path / "dropped")
    assert dropped.keep is not None
    kept = [k for shard in dropped.keep.shards for k in dropped.keep.keys(shard.index).to_pylist()]
    assert kept == [keys[0]]
    page.locator("#forget").click()
    assert page.locator("#review").is_hidden()


def test_gallery_enlarges_and_marks_what_is_removed(watched: Watched) -> None:
    page = watched.open("gallery.html#set=sketch&moved=1")
    gone = page.locator(".gone").first
    assert gone.locator(".mark").text_content() == "removed"
    assert gone.locator("img").evaluate("e => getComputedStyle(e).opacity") == "1"
    gone.locator(".look").focus()
    page.keyboard.press("Enter")
    assert page.locator("#enlarged figure").count() == 2
    assert page.locator("#enlarged .id").last.text_content() == gone.get_attribute("data-key")
    before = page.evaluate("document.body.dataset.turned")
    page.keyboard.press("ArrowRight")  # belongs to the dialog
    page.keyboard.press("Escape")
    assert page.locator("#large").is_hidden()
    assert page.evaluate("document.body.dataset.turned") == before
    assert "the list ends here" in str(page.locator("#points").text_content())


def test_the_slider_counts_what_a_split_removes(
    watched: Watched, study: Study, tmp_path: Path
) -> None:
    page = watched.open("thresholds.html#set=sketch")

    def move(steps: int) -> str:
        slide = f"e => {{ e.value = {steps}; e.dispatchEvent(new Event('input')); }}"
        page.locator("#at").evaluate(slide)
        page.wait_for_selector(f"body[data-shown$=' {steps}']")
        return str(page.locator("#command").text_content())

    for steps in (0, 20, -150, 300):
        typed = shlex.split(move(steps))
        out = tmp_path / f"offset{steps}"
        typed[typed.index("KEEP")] = str(out)
        assert main([*typed[1:], "-q"]) == 0
        keep = open_keep(out)
        assert page.locator("#count").text_content() == f"{keep.rows - keep.kept} of 900 rows"
    page.select_option("#mode", "similarity")
    typed = shlex.split(move(900))
    typed[typed.index("KEEP")] = str(tmp_path / "near")
    assert main([*typed[1:], "-q"]) == 0
    keep = open_keep(tmp_path / "near")
    removed = keep.rows - keep.kept
    assert page.locator("#count").text_content() == f"{removed} of 900 rows"
    with page.expect_download() as download:
        page.locator("#take").click()
    rows = list(csv.DictReader(download.value.path().open()))
    assert len(rows) == removed
    assert all(float(row["similarity"]) > 0.9 for row in rows)
    gone = {row["key"] for row in rows}
    kept = {k for shard in keep.shards for k in keep.keys(shard.index).to_pylist()}
    assert not gone & kept
    first = page.locator(".pair").first
    assert first.locator("img").count() == 2
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".pair")
    assert page.locator("#count").text_content() == f"{removed} of 900 rows"


def test_what_strangers_wrote_stays_text(watched: Watched) -> None:
    page = watched.open("gallery.html")
    captions = set(page.locator(".neighbour .caption").all_text_contents())
    for text in HOSTILE[:3]:
        assert any(text in caption for caption in captions), text
    links = page.locator("a.source").all()
    assert links
    assert all(str(a.get_attribute("href")).startswith("https://example.org/") for a in links)
    assert page.locator(".neighbour script, .neighbour img[src='x']").count() == 0


def test_placeholders_and_thumbnails(watched: Watched) -> None:
    page = watched.open("gallery.html")
    strip = page.locator(".point").first.locator(".strip").last
    missing = strip.locator(".missing").all_text_contents()
    assert missing
    assert all(text.startswith("curated-") for text in missing)
    images = page.locator(".point").first.locator("img")
    assert images.count() >= 2
    assert {image.get_attribute("loading") for image in images.all()} == {"lazy"}
    page.wait_for_function(
        "[...document.querySelectorAll('.point:first-child img')].every(i => i.naturalWidth)"
    )


@pytest.mark.parametrize("width", [1440, 1024, 390])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_nobody_is_kept_out(
    browser: Any, report: Path, single: Path, width: int, mode: str
) -> None:
    """Axe's rules: contrast, names, order of headings, and what else can be told by a program."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
    of_one_file = [f"report.html#{view}" for view in ("index", "gallery", "thresholds", "split-1")]
    for name in (*PAGES, *of_one_file):
        seen = Watched(context, single if name in of_one_file else report)
        found = axe.run(seen.open(name)).response["violations"]
        assert [(rule["id"], [n["target"] for n in rule["nodes"]]) for rule in found] == [], name
        seen.page.close()
    context.close()


def test_a_report_of_one_file_is_the_whole_report(browser: Any, single: Path) -> None:
    """Every view, with pictures, states and downloads, and nothing is asked for."""
    context = browser.new_context(viewport={"width": 1024, "height": 900})
    seen = Watched(context, single)
    page = seen.open("report.html")
    assert page.locator("h1:visible").text_content() == TITLE

    page.get_by_role("link", name="Gallery").click()
    page.wait_for_selector(".point:visible")
    assert page.locator(".view:visible").count() == 1
    assert page.locator("[aria-current=page]:visible").text_content() == "Gallery"
    page.wait_for_function(
        "[...document.querySelectorAll('.point:first-child img')].every(i => i.naturalWidth)"
    )
    turned(page, lambda: page.keyboard.press("ArrowRight"))
    assert "#gallery&set=" in page.url and "page=2" in page.url
    address, second = page.url, first_key(page)
    page.locator(".look").first.click()
    assert page.locator("#large img").count() == 2
    page.locator("#large button").click()

    page.get_by_role("link", name="Threshold").click()
    page.wait_for_selector(".pair:visible")
    page.select_option("#mode", "similarity")
    assert "#thresholds&set=" in page.url
    page.keyboard.press("ArrowRight")  # turns no page of the gallery, which is not shown
    page.get_by_role("link", name="Splits").click()
    assert page.locator("h1:visible").text_content() == HOSTILE[0]
    for name, text in (("test-sets.csv", "test set,"), ("report.json", '"format"')):
        if name.endswith(".csv"):
            page.get_by_role("link", name="Report", exact=True).click()
        with page.expect_download() as download:
            page.locator(f"a[download='{name}']").click()
        assert download.value.suggested_filename == name
        assert text in download.value.path().read_text()

    page.goto(address)
    page.reload()
    page.wait_for_selector(".point:visible")
    assert first_key(page) == second
    assert seen.wrong == []
    assert {url.partition("#")[0] for url in seen.asked if not url.startswith("data:")} == {
        (single / "report.html").as_uri()
    }
    context.close()


def test_the_first_screen_is_the_finding(watched: Watched, report: Path) -> None:
    page = watched.open("index.html")
    finding = json.loads((report / "report.json").read_text())["finding"]
    assert page.locator(".finding").text_content() == finding["says"]
    for part in (".finding", ".badge", "#finding svg", "#finding .save"):
        box = page.locator(part).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900, part
    assert page.locator("#finding .save").evaluate("e => getComputedStyle(e).opacity") == "1"
    page.locator(".badge a").click()
    assert page.locator("h1").text_content() == finding["split"]


def test_a_narrow_screen_has_no_sideways_scroll(browser: Any, report: Path, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    seen = Watched(context, report)
    for name in PAGES:
        page = seen.open(name)
        page.screenshot(path=tmp_path / f"narrow-{name}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    seen.check()
    context.close()


def audit_of(study: Study, folder: Path) -> Path:
    """Of five rows that heads call natural; what they know does not matter here."""
    lines = [f"{s},{r},{'rendition' if r % 3 else 'natural'}" for s in range(3) for r in range(300)]
    (folder / "labels.csv").write_text("\n".join(["shard,row,domain", *lines]))
    store, heads = study.folder / "stores" / "web", folder / "heads"
    clipgap.fit_heads(store, folder / "labels.csv", out=heads, model="m", precision=0.1)
    clipgap.label_domains(store, heads, out=folder / "domains", model="m")
    images = study.folder / "images" / "web"
    return clipgap.audit_domains(
        folder / "domains", out=folder / "audit", images=images, by="default", sample=5
    ).path


def test_an_audit_is_labelled_by_keyboard(browser: Any, study: Study, tmp_path: Path) -> None:
    """What the page downloads is what `audited` takes; no word of strangers does anything."""
    audit = audit_of(study, tmp_path)
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    try:
        watched = Watched(context, audit)
        page = watched.page
        page.goto((audit / "index.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        page.wait_for_selector("#shown img")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for letter in ("r", "n", "u", "r", "a", "x"):
            page.keyboard.press(letter)
        assert page.locator("#status").text_content() == "4 of 5 labelled"
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.locator("#place").text_content() == "5 / 5"  # the first that is open
        page.locator("#answers button", has_text="natural").click()
        assert page.locator("[aria-pressed=true]").text_content() == "natural"
        with page.expect_download() as download:
            page.locator("#download").click()
        download.value.save_as(tmp_path / "labels.csv")
        watched.check()
    finally:
        context.close()
    found = clipgap.audited(audit, tmp_path / "labels.csv")
    assert found.labelled == {"natural": 1, "ambiguous": 1, "rendition": 2, "unseen": 1}
