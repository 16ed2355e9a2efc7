"""The web app in a real browser: headless Chromium, driven by Playwright.

Every page that is opened here is watched: nothing is asked of any other machine, and the browser
has nothing to complain of.
"""

import csv
import json
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.test_app import MARKUP, scene, server  # noqa: F401  (a fixture)

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium here (Debian: apt-get install chromium)", allow_module_level=True)

SECONDS = 60_000  # milliseconds that anything may take here
sync_api.expect.set_options(timeout=SECONDS)
FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# Text whose contrast with what is behind it is below WCAG 2.2's AA (1.4.3), with its ratio.
FAINT = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  ).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(e).backgroundColor);
      if (a > 0.9) return [r, g, b];
    }
    return rgb(getComputedStyle(document.body).backgroundColor);
  };
  const faint = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (e.closest('button[disabled], script, style') || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), size = parseFloat(style.fontSize);
    const a = light(rgb(style.color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const text = e.textContent.trim().slice(0, 40);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${text} ${ratio.toFixed(2)}`);
  }
  return faint;
}"""


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        # --no-sandbox: Chromium's own does not start for root, which CI is.
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox", *FAKE]}
        browser = playwright.chromium.launch(**options)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, server):  # noqa: F811
    """Opens the app in a new window; what went wrong in it is found at the end."""
    wrong, windows = [], []

    def see(page, expected: str = "") -> None:
        page.on("request", lambda request: check_address(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("console", lambda message: check_message(message, expected))

    def check_address(url: str) -> None:
        if not url.startswith((server.address, "data:", "blob:")):
            wrong.append(f"asked elsewhere: {url}")

    def check_message(message, expected: str) -> None:
        if message.type == "error" and not (expected and expected in message.text):
            wrong.append(f"console: {message.text} {message.location}")

    def open_page(tab: str = "", expected: str = "", **settings):
        settings = {"viewport": {"width": 1200, "height": 900}} | settings
        window = chromium.new_context(**settings)
        window.set_default_timeout(SECONDS)
        windows.append(window)
        page = window.new_page()
        see(page, expected)
        page.goto(server.address)
        page.get_by_role("tab", name=tab or "Caption").click()
        return page

    yield open_page
    for window in windows:
        window.close()
    assert wrong == []


def send(page, data: bytes, place: str = "#picture", name: str = "picture.png", kind="image/png"):
    file = {"name": name, "mimeType": kind, "buffer": data}
    page.locator(f"{place} input[type=file]").set_input_files(files=[file])


def captions_of(page) -> list[str]:
    page.locator(".captions li").first.wait_for()
    return [said.get_attribute("data-text") for said in page.locator(".captions .said").all()]


def test_a_picture_is_uploaded_and_captioned(opened, server):  # noqa: F811
    page = opened()
    send(page, scene(5))
    found = captions_of(page)
    expected = json.loads(server.ask("POST", "/api/caption?number=5", scene(5))[2])
    assert found == [one["caption"] for one in expected["alternatives"]] and len(found) == 5
    assert re.fullmatch(r"[\d.e-]+ %", page.locator(".chance").first.inner_text().strip())
    sync_api.expect(page.locator("#picture img")).to_have_attribute("alt", found[0])

    word = page.locator(".captions .word").first
    word.click()
    picture = page.locator(".looked img")
    picture.wait_for()
    said = f"where the model looked as it said “{word.inner_text()}”"
    assert picture.get_attribute("alt") == said
    assert picture.evaluate("e => e.complete && e.naturalWidth > 50")

    page.get_by_text("How to search").click()  # another setting, another search
    page.get_by_label("number input for Captions").fill("2")
    page.keyboard.press("Tab")
    sync_api.expect(page.locator(".captions li")).to_have_count(2)
    page.get_by_label("draw at random").check()
    sync_api.expect(page.locator(".captions li").first).to_be_visible()


def test_a_picture_of_the_collection_is_captioned(opened):
    page = opened()
    page.locator("#examples button").first.click()
    assert len(captions_of(page)) == 5


def test_what_is_no_picture_is_said_and_the_next_one_works(opened):
    page = opened(expected="status of 415")
    send(page, b"<html><script>alert(1)</script>", name="picture.jpg", kind="image/jpeg")
    page.get_by_text("No picture: expected JPEG").first.wait_for()
    page.locator(".captions").wait_for(state="detached")
    send(page, scene(3))
    assert len(captions_of(page)) == 5


def test_similar_pictures_lead_on(opened):
    page = opened("Similar")
    page.locator("#results button").first.click()
    first = page.locator("#query img")
    first.wait_for()
    source = first.get_attribute("src")
    page.locator("#results .why").first.wait_for()
    reasons = page.locator("#results .why").first.inner_text()
    assert re.match(r"looks -?\d\.\d\d · means -?\d\.\d\d", reasons)
    shown = [img.get_attribute("src") for img in page.locator("#results img").all()]
    assert source not in shown and len(shown) == len(set(shown)) == 11
    page.locator("#results button").nth(2).click()
    sync_api.expect(page.locator("#query img")).to_have_attribute("src", shown[2])
    before = page.locator("#results").inner_html()
    page.get_by_label("number input for What counts").fill("1")
    page.keyboard.press("Tab")
    sync_api.expect(page.locator("#results .why").first).to_contain_text("looks")
    for _ in range(100):
        if page.locator("#results").inner_html() != before:
            break
        page.wait_for_timeout(100)
    assert page.locator("#results").inner_html() != before
    send(page, scene(4), "#similar-picture")
    sync_api.expect(page.locator("#query img")).to_have_attribute("src", re.compile("^data:image"))


def test_search_as_one_types(opened):
    page = opened("Search")
    page.locator("#sentence textarea").press_sequentially("a red zebra")
    sync_api.expect(page.locator(".sentence s")).to_have_text("zebra")
    page.locator("#found button").first.wait_for()
    alts = [img.get_attribute("alt") for img in page.locator("#found img").all()]
    assert len(alts) == 12 and all(alts)
    # A caption with markup in it is text, and nothing else.
    sync_api.expect(page.locator("#found").get_by_text(MARKUP, exact=True)).to_have_count(1)
    assert page.locator("#found [onerror]").count() == 0
    page.locator("#found button").first.click()
    page.locator("#query img").wait_for()
    assert page.get_by_role("tab", name="Similar").get_attribute("aria-selected") == "true"


def test_nothing_known_is_said(opened):
    page = opened("Search")
    page.locator("#sentence textarea").press_sequentially("zebra")
    page.get_by_text("None of these words is known").wait_for()


def test_the_map_and_words(opened):
    page = opened("Explore")
    canvas = page.locator("#map canvas")
    canvas.focus()
    hover = page.locator("#map .hover")
    for _ in range(100):  # until the map is there
        page.keyboard.press("ArrowRight")
        if hover.inner_text():
            break
        page.wait_for_timeout(100)
    first = hover.inner_text()
    assert first
    drawn = canvas.evaluate(
        "e => new Set(e.getContext('2d').getImageData(0, 0, e.width, e.height).data).size"
    )
    assert drawn > 50  # thumbnails, not an empty sheet
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.locator("#word textarea").press_sequentially("red")
    page.locator("#neighbours button").first.wait_for()
    for _ in range(10):  # a second answer to what was typed may replace the list under the click
        page.locator("#neighbours button").first.click()
        page.wait_for_timeout(500)
        if page.locator("#word textarea").input_value() != "red":
            break
    sync_api.expect(page.locator("#word textarea")).not_to_have_value("red")
    page.locator("#word textarea").fill("")
    page.locator("#word textarea").press_sequentially("cirle")
    page.get_by_text("did you mean circle").wait_for()
    canvas.focus()
    page.keyboard.press("Enter")
    page.locator("#query img").wait_for()


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_votes_are_kept_as_csv(opened, server):  # noqa: F811
    page = opened()
    send(page, scene(6))
    best = captions_of(page)[0]
    page.get_by_role("button", name="Good").click()
    page.get_by_text("Kept in votes. Thank you.").wait_for()
    page.get_by_label("My caption instead").fill('=cmd("x"), a red\ncircle')
    page.get_by_role("button", name="Keep my caption").click()
    votes = server.folder / "votes" / "votes.csv"
    for _ in range(100):
        if len(rows := table(votes)) == 2:
            break
        time.sleep(0.1)
    assert [(row["vote"], row["caption"]) for row in rows] == [
        ("good", best),
        ("written", 'cmd("x"), a red circle'),
    ]
    kept = table(server.folder / "votes" / "captions.csv")
    assert [row["caption"] for row in kept] == [row["caption"] for row in rows]
    assert (server.folder / "votes" / "pictures" / kept[0]["image"]).stat().st_size > 500


def test_live_captions_of_the_webcam(opened):
    page = opened(permissions=["camera"])
    page.get_by_text("Live from the webcam").click()
    page.get_by_role("button", name="Start the webcam").click()
    said, rate = page.locator("#live .said"), page.locator("#live .rate")
    sync_api.expect(said).not_to_be_empty()
    sync_api.expect(rate).to_have_text(re.compile(r"^[\d.]+ captions a second$"))
    page.get_by_role("button", name="Stop").click()
    sync_api.expect(page.locator("#live video")).to_be_hidden()


def test_live_captions_wait_where_the_server_is_busy(opened):
    """Whoever says 503 may say it in words, not in JSON."""
    page = opened(expected="status of 50", permissions=["camera"])
    asked = []

    def answer(route):
        asked.append(route.request.url)
        if len(asked) == 1:
            busy = {"status": 503, "headers": {"Retry-After": "0.1"}, "body": "Too many at once."}
            return route.fulfill(**busy)
        return route.fulfill(status=507, body="<p>no room</p>")

    page.route("**/api/caption", answer)
    page.get_by_text("Live from the webcam").click()
    page.get_by_role("button", name="Start the webcam").click()
    sync_api.expect(page.locator("#live .rate")).to_have_text("Stopped: <p>no room</p>")
    assert len(asked) == 2


def test_no_text_is_compiled_to_a_program(opened):
    """Neither by the page's own `Function` nor by the browser's; its evaluate is not asked."""
    page = opened(expected="unsafe-eval")
    page.evaluate(
        """() => {
          window.names = [];
          const script = document.createElement('button');
          script.onclick = () => {
            for (const make of [Function, (async () => {}).constructor, eval]) {
              try { make('return 1'); names.push('compiled'); } catch (e) { names.push(e.name); }
            }
          };
          setTimeout(() => script.click(), 0);
        }"""
    )
    page.wait_for_function("window.names.length === 3")
    assert page.evaluate("window.names") == ["EvalError"] * 3


def test_about_says_what_is_known(opened):
    page = opened("About")
    card = page.locator("#card")
    sync_api.expect(card).to_contain_text("words it knows")
    sync_api.expect(card).to_contain_text("No MLflow run of this bundle was found")
    sync_api.expect(card).to_contain_text("A high probability says that a sentence is usual")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_it_can_be_read_and_used_by_all(opened, scheme, width):
    """Contrast AA, no scrolling sideways, names for all that can be clicked, alt for pictures."""
    page = opened(color_scheme=scheme, viewport={"width": width, "height": 844})
    send(page, scene(5))
    captions_of(page)
    page.locator(".captions .word").first.click()
    page.locator(".looked img").wait_for()
    for tab in ("Caption", "Similar", "Search", "Explore", "About"):
        page.get_by_role("tab", name=tab).click()
        if tab == "Similar":
            page.locator("#results button").first.click()
            page.locator("#results .why").first.wait_for()
        if tab == "Search":
            page.locator("#sentence textarea").press_sequentially("red zebra")
            page.locator(".sentence s").wait_for()
        if tab == "About":
            page.locator("#card table").first.wait_for()
        page.wait_for_timeout(400)  # colours fade
        assert page.evaluate(FAINT) == [], tab
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('img, button, input, textarea')].filter(
              e => e.checkVisibility() && e.type !== 'file' && !(e.alt || e.ariaLabel || e.title
                || e.textContent.trim() || e.labels?.length || e.getAttribute('aria-labelledby'))
            ).map(e => e.outerHTML.slice(0, 200))"""
        )
        assert nameless == [], tab
