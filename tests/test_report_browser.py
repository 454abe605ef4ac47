"""The report in a real browser: opens, sorts, searches, pages, downloads, no errors."""

import csv
import shutil
import time

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from skvibe import OffManifoldFilter, VIBEClassifier
from skvibe.auditing import Audit, audit

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed: pip install selenium"
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="Chromium and chromedriver are not installed: the report is not looked at "
    "in a browser (apt-get install chromium chromium-driver)",
)
HOSTILE = (
    "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"
    "</script><b id='owned'>"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
SIZES = {"phone": (390, 844), "notebook": (1280, 800), "full screen": (1920, 1080)}


def _rows(n_rows, seed=0):
    """Three clusters of equal size, a tenth of the labels of two of them wrong."""
    rng = np.random.default_rng(seed)
    true = np.arange(n_rows) % 3
    X = 12 * np.eye(3, 8, dtype=np.float32)[true]
    X += rng.normal(size=X.shape).astype(np.float32)
    y = np.where((true > 0) & (rng.random(n_rows) < 0.15), 0, true)
    return X, np.array(["one", "two", "three"])[y]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with hostile and ordinary texts, images and a removed community."""
    X, y = _rows(600)
    # Beside the 600 rows, so that the classes stay in balance.
    X = np.vstack(
        [X, 60 * np.eye(8)[7] + np.random.default_rng(1).normal(size=(50, 8))]
    )
    y = np.r_[y, ["one"] * 50]
    text = [HOSTILE if i % 2 else f'=1+{i}, a "quoted"\nline' for i in range(650)]
    images = np.random.default_rng(0).random((650, 8, 8))
    steps = [
        ("filter", OffManifoldFilter(random_state=0)),
        ("vibe", VIBEClassifier(max_iter=100, random_state=0)),
    ]
    found = audit(X, y, text=text, images=images, estimator=Pipeline(steps))
    path = tmp_path_factory.mktemp("page") / "report.html"
    found.to_html(path, title=HOSTILE)
    return path, found


@pytest.fixture
def opened(driver, page):
    path, found = page
    driver.get(path.as_uri())
    yield driver, found
    errors = [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"]
    assert errors == []


def _column(driver, name):
    return driver.execute_script(
        "return [...document.querySelectorAll('#suspects tbody td')]"
        ".filter((td) => td.dataset.name === arguments[0])"
        ".map((td) => td.firstChild.innerText)",
        name,
    )


def _status(driver):
    return driver.find_element("id", "status").text


def _choose(driver, name, text):
    from selenium.webdriver.support.select import Select

    select = Select(driver.find_element("id", name))
    (option,) = [o.text for o in select.options if o.text.startswith(text)]
    select.select_by_visible_text(option)


def _search(driver, text):
    field = driver.find_element("id", "search")
    field.clear()
    field.send_keys(text or "\b")
    time.sleep(0.4)


def test_it_opens_with_the_most_suspect_rows_first(opened):
    driver, found = opened
    n_suspects = found.is_suspect.sum()
    assert _status(driver).startswith(f"{n_suspects} of {n_suspects} rows")
    assert _column(driver, "Row") == [str(i) for i in found.suspect_order()[:50]]
    assert _column(driver, "Action")[0] == "drop"


def test_hostile_text_is_shown_and_not_run(opened):
    driver, _ = opened
    assert driver.title == HOSTILE
    assert driver.find_element("tag name", "h1").text == HOSTILE
    _search(driver, "<script>")
    assert HOSTILE in _column(driver, "Content")[0]
    assert driver.execute_script("return window.owned") is None
    assert driver.find_elements("id", "owned") == []


def test_no_address_is_asked_for(opened):
    driver, _ = opened
    addresses = driver.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [a for a in addresses if not a.startswith("data:")] == []


def test_figures_and_thumbnails_are_drawn(opened):
    driver, _ = opened
    sizes = driver.execute_script(
        "return [...document.images].map((i) => [i.complete, i.naturalWidth, i.height])"
    )
    assert len(sizes) == 5 + 2 * 50
    assert all(complete and width and height for complete, width, height in sizes)


def test_sorting_by_a_heading_both_ways(opened):
    driver, found = opened
    rows = sorted(np.flatnonzero(found.is_suspect).tolist())
    for expected, direction in (
        (rows[:50], "ascending"),
        (rows[::-1][:50], "descending"),
    ):
        driver.find_element("css selector", "th[data-key=row] button").click()
        assert _column(driver, "Row") == [str(i) for i in expected]
        head = driver.find_element("css selector", "th[data-key=row]")
        assert head.get_attribute("aria-sort") == direction


def test_sorting_by_the_select_and_back(opened):
    driver, found = opened
    _choose(driver, "sort", "Predicted, descending")
    assert _column(driver, "Predicted") == sorted(_column(driver, "Predicted"))[::-1]
    _choose(driver, "sort", "most suspect")
    assert _column(driver, "Row")[0] == str(found.suspect_order()[0])


def test_searching_and_filtering(opened):
    driver, found = opened
    dropped = np.flatnonzero(found.actions == "drop")
    _choose(driver, "f-action", "drop")
    assert _status(driver).startswith(f"{len(dropped)} of ")
    _search(driver, f"=1+{dropped[dropped % 2 == 0][0]},")
    assert _column(driver, "Row") == [str(dropped[dropped % 2 == 0][0])]
    _search(driver, "no row holds this")
    assert _status(driver).startswith("0 of ")
    assert not driver.find_element("id", "download").is_enabled()


def test_paging(opened):
    driver, found = opened
    order = [str(i) for i in found.suspect_order()]
    driver.find_element("id", "next").click()
    assert _column(driver, "Row") == order[50:100]
    driver.find_element("id", "last").click()
    assert _column(driver, "Row")[-1] == order[-1]
    assert not driver.find_element("id", "next").is_enabled()
    _choose(driver, "size", "250")
    assert _column(driver, "Row") == order[:250]


def test_download_of_what_is_shown_with_formulas_guarded(opened, tmp_path):
    driver, found = opened
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior",
        {"behavior": "allow", "downloadPath": str(tmp_path)},
    )
    _choose(driver, "f-action", "drop")
    driver.find_element("id", "download").click()
    file = tmp_path / "suspects.csv"
    for _ in range(100):
        if file.exists() and file.stat().st_size:
            break
        time.sleep(0.05)
    with open(file, newline="", encoding="utf-8") as opened_file:
        lines = list(csv.DictReader(opened_file))
    dropped = found.suspect_order()[: (found.actions == "drop").sum()]
    assert [int(line["row"]) for line in lines] == dropped.tolist()
    even, odd = dropped[dropped % 2 == 0][0], dropped[dropped % 2 == 1][0]
    texts = {int(line["row"]): line["text"] for line in lines}
    assert texts[even] == f'\'=1+{even}, a "quoted"\nline'
    assert texts[odd] == HOSTILE


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut_at_any_width(opened, size):
    driver, _ = opened
    width, height = SIZES[size]
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": size == "phone",
        },
    )
    try:
        driver.refresh()
        beyond = driver.execute_script(
            "return [...document.querySelectorAll('body *')].filter((e) => {"
            " const box = e.getBoundingClientRect();"
            " const clipped = getComputedStyle(document.querySelector("
            "  '#suspects thead')).position === 'absolute' && e.closest('thead');"
            " return !clipped && box.width > 1"
            "  && (box.right > innerWidth + 1 || box.left < -1);"
            "}).map((e) => e.outerHTML.slice(0, 80))"
        )
        assert beyond == []
        assert driver.execute_script("return innerWidth") == width
        small = driver.execute_script(
            "return Math.min(...[...document.querySelectorAll('td, p, li, label')]"
            ".map((e) => parseFloat(getComputedStyle(e).fontSize)))"
        )
        assert small >= 12
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_words_that_suspect_rows_share_are_marked(driver, tmp_path):
    X, y = _rows(600)
    true = np.array(["one", "two", "three"])[np.arange(600) % 3]
    text = [
        "a Qzx <b>row</b>" if a != b else "a row" for a, b in zip(y, true, strict=True)
    ]
    vibe = VIBEClassifier(max_iter=100, random_state=0).fit(X, y)
    path = tmp_path / "marked.html"
    Audit(vibe, X, y, text=text).to_html(path, figures=False)
    driver.get(path.as_uri())
    marks = driver.execute_script(
        "return [...document.querySelectorAll('td[data-name=Content] mark')]"
        ".map((mark) => mark.innerText)"
    )
    assert set(marks) >= {"Qzx"}
    assert "a Qzx <b>row</b>" in _column(driver, "Content")
    assert [e for e in driver.get_log("browser") if e["level"] != "INFO"] == []


@pytest.mark.slow
def test_hundred_thousand_rows(driver, tmp_path):
    X, y = _rows(100_000)
    vibe = VIBEClassifier(max_iter=60, e_step_period=20, random_state=0).fit(X, y)
    words = ["trigger", "market", "science", "sport", "a", "of", "and", "people"]
    rng = np.random.default_rng(0)
    text = [" ".join(line) for line in rng.choice(words, (100_000, 70))]
    found = Audit(vibe, X, y, text=text)
    assert found.is_suspect.sum() > 8_000
    path = tmp_path / "large.html"
    found.to_html(path)
    assert path.stat().st_size < 15_000_000
    driver.get(path.as_uri())
    driver.find_element("css selector", "th[data-key=score] button").click()
    assert len(_column(driver, "Row")) == 50
    _search(driver, "trigger sport")
    assert "shown" in _status(driver)
    assert [e for e in driver.get_log("browser") if e["level"] != "INFO"] == []
