"""The page of the example project, in a real Chromium: its buttons pressed, its picture read.

Not part of the default run, for it needs a browser that pip cannot install: `pytest -m browser`.
"""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.example.test_example import PATIENCE, Run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

FLAGS = (
    "--no-sandbox",  # who runs in a container is root there
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CALLERS = ("sync", "async")
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page as `manage.py demo --page` serves it: a Redis, the API, four servers, all real."""
    demo = Run(tmp_path_factory.mktemp("page") / "said", "manage.py", "demo", "--page", "--port", "0")
    try:
        wait_until(lambda: "Ctrl-C" in demo.said or demo.process.poll() is not None, "the page is served")
        assert demo.process.poll() is None, demo.said
        yield demo.said.partition("Open ")[2].split()[0]
        demo.process.send_signal(signal.SIGINT)
        assert demo.wait() == 0, demo.said
        assert "Traceback" not in demo.said
        wait_until(demo.is_gone, "the demo's processes are gone")
    finally:
        demo.signal_group(signal.SIGKILL)
        demo.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("This test needs Playwright: pip install -e '.[test,browser]'", pytrace=False)
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.fail("This test needs a Chromium. On Debian: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visited:
    """The page in a tab of its own, and what a person does and sees there."""

    tab: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def press(self, scene: str, caller: str = "sync") -> dict[str, Any]:
        """Press a button, wait until the crowd is gone, and say what the counters show."""
        self.tab.check(f"input[value={caller}]")
        self.tab.click(f"button[value={scene}]")
        return self.outcome()

    def outcome(self) -> dict[str, Any]:
        self.tab.wait_for_selector("form[aria-busy=false]")
        return {
            place.get_attribute("data-counter"): place.inner_text()
            for place in self.tab.query_selector_all("[data-counter]")
        }

    @property
    def story(self) -> str:
        return self.tab.inner_text("#story")

    @property
    def legend(self) -> dict[str, int]:
        """How many visitors had each outcome."""
        items = self.tab.query_selector_all("#legend li")
        return {str(item.get_attribute("data-outcome")): int(item.inner_text().split()[0]) for item in items}

    def drawn(self, selector: str) -> int:
        """How often this is in the picture."""
        return len(self.tab.query_selector_all(f"#timeline {selector}"))

    def picture(self) -> dict[str, Any]:
        """The figures that the picture was drawn from."""
        return json.loads(self.tab.request.get(f"{self.url}run/").body())


@pytest.fixture
def visit(chromium: Browser, url: str) -> Iterator[Callable[..., Visited]]:
    """Open the page. In the end its console must be empty, whatever the test was about."""
    opened: list[tuple[BrowserContext, Visited]] = []

    def open_page(**context: Any) -> Visited:
        tabs = chromium.new_context(**context)
        visited = Visited(tabs.new_page(), url)
        opened.append((tabs, visited))
        visited.tab.set_default_timeout(PATIENCE * 1000)
        visited.tab.on("console", lambda said: visited.complaints.append(said.text))
        visited.tab.on("pageerror", lambda error: visited.complaints.append(str(error)))
        visited.tab.goto(url)
        return visited

    yield open_page
    for tabs, visited in opened:
        tabs.close()
        assert visited.complaints == []


@pytest.mark.parametrize("caller", CALLERS)
def test_without_a_lock_most_visitors_get_an_error(visit: Callable[..., Visited], caller: str) -> None:
    """No lock: many calls, and the API refuses what is above its limit; the page counts and draws each of them."""
    page = visit()
    counters = {name: int(text) for name, text in page.press("unlocked", caller).items() if text.isdigit()}
    assert counters["calls"] > 10
    assert counters["refused"] == counters["calls"] - 10
    assert counters["failed"] == counters["refused"]
    assert counters["served"] == 100 - counters["failed"]
    assert page.legend["refused"] == counters["failed"]
    assert page.drawn(".mark.answered") == 10
    assert page.drawn(".window") == 1, "the time of Retry-After is shaded"


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("scene", ["cache-lock", "get-or-set"])
def test_with_one_call_all_visitors_are_served(visit: Callable[..., Visited], scene: str, caller: str) -> None:
    """One visitor calls the API, once; all are served, and the picture shows whom they waited for."""
    page = visit()
    counters = page.press(scene, caller)
    wait = counters.pop("longest_wait")
    assert wait.endswith(" s")
    assert int(counters.pop("commands")) >= 100  # each looked into the cache
    assert counters == {"calls": "1", "refused": "0", "served": "100", "failed": "0"}
    assert page.drawn(".bar") == 100
    assert page.drawn(".mark.answered") == 1
    assert page.drawn(".window") == 0
    legend = page.legend
    assert legend["fetched"] == 1
    assert sum(legend.values()) == 100
    caller = page.picture()["calls"][0]["caller"]
    assert f"waited for visitor {caller}, who called for all" in page.story
    assert page.drawn(".handout") == 1


@pytest.mark.parametrize("caller", CALLERS)
def test_nobody_calls_before_the_api_allows_it(visit: Callable[..., Visited], caller: str) -> None:
    """After a 429 nobody in the fleet calls before its Retry-After is over, and all get the old forecast meanwhile."""
    page = visit()
    counters = page.press("over-limit", caller)
    assert (counters["calls"], counters["refused"]) == ("2", "1")
    assert (counters["served"], counters["failed"]) == ("100", "0")
    picture = page.picture()
    refused, allowed = picture["calls"]
    assert refused["retry_after"] == 4
    assert allowed["retry_after"] == 0
    assert allowed["at"] - refused["at"] >= refused["retry_after"]
    meanwhile = [visitor for visitor in picture["visitors"] if visitor["ended"] < allowed["at"]]
    assert len(meanwhile) > 50
    assert {visitor["source"] for visitor in meanwhile} == {"stale"}
    (answered,) = (visitor["ended"] for visitor in picture["visitors"] if visitor["source"] == "fetched")
    after = {visitor["source"] for visitor in picture["visitors"] if visitor["began"] > answered}
    assert after == {"cache"}, "once the API has answered, the forecast is fresh for all"
    assert page.drawn(".window") == 1
    assert "Retry-After: 4 s" in str(page.tab.text_content("#timeline .window-label"))
    assert f"{page.legend['stale']} visitors got the old forecast" in page.story


def test_what_a_plain_lock_lacks(visit: Callable[..., Visited]) -> None:
    """With `cache.lock` each visitor tries the failing call again, and gets an error: there is no old forecast."""
    page = visit()
    counters = page.press("over-limit-cache-lock")
    assert int(counters["refused"]) > 1
    assert counters["failed"] == counters["refused"]
    assert "stale" not in page.legend
    assert "the old forecast was gone" in page.story


@pytest.mark.parametrize(("caller", "path"), [("sync", "/forecast/"), ("async", "/async/forecast/")])
def test_page_that_a_visitor_gets(visit: Callable[..., Visited], caller: str, path: str) -> None:
    """Below the picture stands the page that a visitor gets, from the view that the crowd visited."""
    page = visit()
    page.press("get-or-set", caller)
    link = page.tab.get_attribute("#visitor a", "href")
    assert link is not None
    assert link.startswith(f"{path}Reykjavik/")
    seen = page.tab.frame_locator("#visitor iframe")
    seen.get_by_role("heading", name="Reykjavik").wait_for()
    seen.get_by_text("From the cache: the weather API was not called.").wait_for()
    assert page.picture()["counters"]["calls"] == 1


def test_ways_can_be_compared(visit: Callable[..., Visited]) -> None:
    """Each way that was tried keeps its row, so that one sees them side by side; trying again replaces it."""
    page = visit()
    for scene in ("unlocked", "get-or-set", "get-or-set"):
        page.press(scene)
    rows = page.tab.query_selector_all("#results tbody tr")
    assert [row.inner_text().split("\t")[0] for row in rows] == ["no lock sync", "get_or_set sync"]
    assert [len(row.query_selector_all(".answer")) for row in rows] == [100, 100]


def test_runs_share_one_scale(visit: Callable[..., Visited]) -> None:
    """A short run after a long one is drawn to the seconds of the long one, in the picture and in the table."""
    page = visit()
    page.press("get-or-set")
    alone = float(page.tab.inner_text("#axis-of-answers").split()[2])
    page.press("over-limit")
    page.press("get-or-set")
    scale = float(page.tab.inner_text("#axis-of-answers").split()[2])
    assert scale >= 6 > alone
    last = page.tab.evaluate(
        "Math.max(...[...document.querySelectorAll('#timeline .bar')].map((bar) => +bar.getAttribute('x2')))"
    )
    width = page.tab.evaluate("document.querySelector('#timeline').clientWidth")
    assert last < width * 0.7, "the run ends long before the end of the scale"


@pytest.mark.parametrize("size", [{"width": 1280, "height": 800}, PHONE], ids=["wide", "phone"])
def test_picture_is_in_view_when_a_run_begins(visit: Callable[..., Visited], size: dict[str, int]) -> None:
    """Who presses a button sees the picture begin, without scrolling."""
    page = visit(viewport=size, reduced_motion="reduce")
    page.tab.click("button[value=unlocked]")
    page.tab.wait_for_selector("form[aria-busy=true]")
    top = page.tab.evaluate("document.querySelector('#timeline').getBoundingClientRect().top")
    assert 0 <= top <= size["height"] * 0.6
    page.outcome()


def test_many_forecasts(visit: Callable[..., Visited]) -> None:
    """With a rate limit nearly all of 300 forecasts come; the picture shows each second's calls, and the allowance."""
    page = visit()
    counters = page.press("many-rate-limit")
    assert int(counters["served"]) + int(counters["failed"]) == 300
    assert int(counters["served"]) > 200  # a machine that stands still makes the calls of two seconds at once
    bars = page.tab.evaluate(
        "[...document.querySelectorAll('#timeline .used')].map((bar) => +bar.getAttribute('height'))"
    )
    line = page.tab.evaluate("+document.querySelector('#timeline .allowed').getAttribute('y1')")
    assert 25 < len(bars) < 60
    assert max(bars) <= 48 - line + 0.01, "no second has more answers than are allowed"
    assert "300 forecasts: with a rate limit" in page.tab.inner_text("#results")


def test_buttons_show_their_code(visit: Callable[..., Visited]) -> None:
    """Each button shows, in three lines, what a project would write."""
    page = visit()
    shown = [code.inner_text() for code in page.tab.query_selector_all("button > code")]
    assert len(shown) == len(page.tab.query_selector_all("#scenes button")) == 8
    assert all(len(code.splitlines()) == 3 for code in shown)
    assert page.tab.evaluate(
        "[...document.querySelectorAll('button > code')].every((code) => code.scrollWidth <= code.clientWidth)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone(visit: Callable[..., Visited], scheme: str) -> None:
    """At a phone's width nothing must be scrolled sideways, before and after; and what happens comes into view."""
    page = visit(viewport=PHONE, color_scheme=scheme, reduced_motion="reduce")

    def fits() -> bool:
        return bool(page.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    assert fits()
    page.press("unlocked")
    assert fits()
    assert 0 <= page.tab.evaluate("document.querySelector('#story').getBoundingClientRect().top") < PHONE["height"]
    page.tab.goto(str(page.tab.evaluate("document.querySelector('#visitor a').href")))
    assert fits()


def test_keyboard_is_enough(visit: Callable[..., Visited]) -> None:
    """Tab and Enter lead to the result, and the focus stays on the button that was pressed."""
    page = visit()
    page.tab.focus("input[value=sync]")
    page.tab.keyboard.press("ArrowRight")
    assert page.tab.is_checked("input[value=async]")
    for _ in range(3):
        page.tab.keyboard.press("Tab")
    page.tab.keyboard.press("Enter")
    assert page.outcome()["calls"] == "1"
    assert page.tab.evaluate("document.activeElement.value") == "get-or-set"
    assert page.tab.get_attribute("button[value=get-or-set]", "aria-pressed") == "true"


CONTRAST = """
([selector, property]) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
    const [red, green, blue] = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  let ground = document.querySelector(selector);
  const front = light(getComputedStyle(ground)[property]);
  while (["rgba(0, 0, 0, 0)", ""].includes(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
  const back = light(getComputedStyle(ground).backgroundColor);
  return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_can_be_read(visit: Callable[..., Visited], scheme: str) -> None:
    """In light and dark, texts stand out as WCAG AA wants it (4.5 to 1), and the lines of the picture (3 to 1)."""
    page = visit(color_scheme=scheme)
    page.press("unlocked")
    for text in ("#story", "button span", "dt", "dd.bad", "#legend li", "figcaption", "#results th", "#visitor a"):
        assert page.tab.evaluate(CONTRAST, [text, "color"]) >= 4.5, text
    assert page.tab.evaluate(CONTRAST, ["#timeline text", "fill"]) >= 4.5
    for line in (".bar.fetched", ".bar.refused"):
        assert page.tab.evaluate(CONTRAST, [f"#timeline {line}", "stroke"]) >= 3, line


def test_one_crowd_at_a_time(visit: Callable[..., Visited]) -> None:
    """Who presses a button while somebody else's crowd is there is told so, and can press again."""
    first, second = visit(), visit()
    first.tab.click("button[value=over-limit]")
    wait_until(lambda: first.picture().get("running"), "the first crowd comes")
    second.press("unlocked")
    assert "A crowd is still here" in second.story
    second.complaints.clear()  # Chromium itself notes the 409
    first.outcome()
    assert "A crowd" not in first.story
