"""The admin's page of locks in a real Chromium: refreshed, paused, ticked, released; light and dark, wide and narrow.

Not part of the default run, for it needs a browser that pip cannot install: `pytest -m browser`.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from django_locksmith import locksmith
from tests.example.test_page import CONTRAST, PHONE, chromium
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Page, Route

    from django_locksmith import Lease
    from tests.helpers.deployments import Deployment

__all__ = ["chromium"]  # the fixture

pytestmark = pytest.mark.browser

WIDE = {"width": 1280, "height": 800}
SCHEMES = ("light", "dark")
SIZES = {"wide": WIDE, "narrow": PHONE}
PATH = "/admin/django_locksmith/lock/"
STRICT = "default-src 'self'"

HIDDEN = """
(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""


def hold(key: str, *, host: str = "web-1", **options: Any) -> Lease:
    token = f"{os.urandom(12).hex()}-1|{host}|42|MainThread|1700000000000|gunicorn shop.wsgi"
    lease = locksmith(key, **options).acquire(blocking=False, token=token)
    assert lease is not None
    return lease


@dataclass
class Visited:
    """The page in a tab of its own, and what a person does and sees there."""

    tab: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    refreshed: list[float] = field(default_factory=list)
    """When."""

    @property
    def keys(self) -> list[str]:
        """The locks that one sees."""
        return [bdi.inner_text() for bdi in self.tab.query_selector_all("tbody .locksmith-key bdi")]

    def shows(self, *keys: str) -> None:
        """Return when these locks are seen, and no others."""
        self.until(lambda: self.keys == list(keys))

    def until(self, what: Callable[[], Any]) -> None:
        def look() -> Any:
            self.tab.wait_for_timeout(20)  # lets the browser's events in
            return what()

        poll(look, within=20, every=0.01)

    @property
    def news(self) -> str:
        return self.tab.inner_text("#locksmith-news")

    def box(self, key: str) -> Any:
        return self.tab.get_by_label(f"Select {key}", exact=True)

    def rhythm(self) -> float:
        """Return when it has been refreshed a few times, and how long it took from one to the next at most, seconds."""
        self.until(lambda: len(self.refreshed) >= 4)
        return max(later - one for one, later in pairwise(self.refreshed))

    def rests(self, rhythm: float) -> None:
        """For three times as long it is not refreshed."""
        self.tab.wait_for_load_state("networkidle")
        self.refreshed.clear()
        self.tab.wait_for_timeout(3000 * rhythm)
        assert self.refreshed == []

    def refresh(self) -> None:
        """Press the button, and return when the answer is there."""
        with self.tab.expect_response(re.compile(f"{PATH}part/")):
            self.tab.click("#locksmith-refresh")

    def ask_to_release(self) -> None:
        """Press the button, and return when the question is there."""
        self.tab.click("text=Force release…")
        self.tab.wait_for_selector("text=Are you sure?")

    def say_yes(self) -> None:
        """Answer the question, and return when it is done."""
        self.tab.click("text=Yes, release by force")
        self.tab.wait_for_selector(".messagelist .success")

    def fits(self) -> bool:
        self.tab.wait_for_load_state()  # a page that has its text may not have its styles yet
        return bool(self.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.fixture(scope="module", autouse=True)
def database_beside_a_loop() -> Iterator[None]:
    """Playwright runs a loop in this thread, in which Django would refuse to talk to the database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield


@pytest.fixture
def visit(
    chromium: Browser, live_server: Any, admin_user: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Visited]]:
    """Log in and open the page, under a policy that allows no inline script and no inline style.

    In the end its console must be empty, whatever the test was about.
    """
    opened: list[tuple[BrowserContext, Visited]] = []

    def strictly(route: Route) -> None:
        answer = route.fetch(max_redirects=0)
        route.fulfill(response=answer, headers={**answer.headers, "content-security-policy": STRICT})

    def open_page(query: str = "", *, every: float = 0.2, javascript: bool = True, **context: Any) -> Visited:
        monkeypatch.setattr("django_locksmith.admin.LockAdmin.refresh_every", every)
        tabs = chromium.new_context(java_script_enabled=javascript, **{"viewport": WIDE, **context})
        tabs.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        tabs.route(re.compile(f"{PATH}([?]|release|history|$)"), strictly)
        visited = Visited(tabs.new_page(), live_server.url + PATH + query)
        opened.append((tabs, visited))
        visited.tab.on("console", lambda said: visited.complaints.append(said.text))
        visited.tab.on("pageerror", lambda error: visited.complaints.append(str(error)))
        visited.tab.on("response", lambda got: "/part/" in got.url and visited.refreshed.append(time.monotonic()))
        visited.tab.goto(visited.url)
        visited.tab.fill("[name=username]", admin_user.username)
        visited.tab.fill("[name=password]", "password")
        visited.tab.click("[type=submit]")
        visited.tab.wait_for_selector("#locksmith-pause", state="visible" if javascript else "attached")
        return visited

    yield open_page
    for tabs, visited in opened:
        tabs.close()
        assert visited.complaints == []


def test_locks_come_and_go(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """Locks appear when they are taken and vanish when they are given back, without a reload."""
    page = visit()
    assert "No lock is held." in page.tab.inner_text("#locksmith-list")
    second = hold("b")
    page.shows("b")
    first, third = hold("a"), hold("c")
    page.shows("a", "b", "c")
    second.release()
    page.shows("a", "c")
    first.release()
    third.release()
    page.shows()
    assert "No lock is held." in page.tab.inner_text("#locksmith-list")


def test_refresh_disturbs_nobody(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """Ticks, the focus and what is typed survive what happens around them."""
    hold("b")
    lease = hold("c")
    page = visit()
    page.box("b").check()
    page.box("b").focus()
    page.tab.evaluate("document.querySelector('.action-select').dataset.mine = 'the very same'")
    hold("a")
    lease.release()
    page.shows("a", "b")
    assert page.box("b").is_checked()
    assert not page.box("a").is_checked()
    assert page.box("b").get_attribute("data-mine") is None, "what the page did not say is taken back"
    assert page.tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Select b"
    assert page.tab.inner_text(".action-counter") == "1 of 2 selected"
    page.tab.fill("#searchbar", "typed")
    page.tab.focus("[name=host]")
    page.tab.select_option("[name=host]", "web-1")
    hold("d", host="web-2")
    page.shows("a", "b", "d")
    assert page.tab.input_value("#searchbar") == "typed"
    assert page.tab.input_value("[name=host]") == "web-1"
    assert page.tab.evaluate("document.activeElement.name") == "host"


def test_order_changes(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """When rows change places, ticks and the focus go with them, and no row is made anew."""
    for key in "abc":
        hold(key)
    page = visit("?sort=waiters")
    page.shows("a", "b", "c")
    page.box("c").check()
    page.box("c").focus()
    page.tab.evaluate("window.rows = [...document.querySelectorAll('tbody tr')]")
    with valkey.server.client() as client:
        client.zadd("__locksmith:<queue>c", {"somebody": time.time() * 1000 + 60_000})
        page.shows("c", "a", "b")
        client.zadd("__locksmith:<queue>b", {each: time.time() * 1000 + 60_000 for each in ("one", "two")})
        page.shows("b", "c", "a")
    assert page.box("c").is_checked()
    assert page.tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Select c"
    assert page.tab.evaluate("window.rows.every((row) => row.isConnected)")
    assert page.tab.inner_text(".action-counter") == "1 of 3 selected"


def test_tick_is_for_one_holder(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """When a ticked lock changes hands its tick is gone, and one is told; the focus is not lost in the void."""
    hold("a", host="web-1")
    page = visit()
    page.box("a").check()
    page.box("a").focus()
    locksmith.clear("a")
    hold("a", host="web-2")
    page.until(lambda: "web-2" in page.tab.inner_text(".locksmith-table tbody"))
    assert not page.box("a").is_checked()
    assert page.news == "A lock that you had selected is free, or in other hands, by now."
    assert page.tab.evaluate("document.activeElement.id") == "locksmith-list"
    page.box("a").check()
    assert page.news == ""


def test_select_all(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """One tick ticks all, and shows when not all are ticked any more."""
    for key in "abc":
        hold(key)
    page = visit()
    page.shows("a", "b", "c")
    page.tab.check("#action-toggle")
    assert page.tab.inner_text(".action-counter") == "3 of 3 selected"
    page.box("b").uncheck()
    assert page.tab.inner_text(".action-counter") == "2 of 3 selected"
    assert page.tab.evaluate("document.querySelector('#action-toggle').indeterminate")


def test_pause(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """The button stops the refreshing, says so, and starts it again; one may still refresh by hand."""
    page = visit()
    rhythm = page.rhythm()
    page.tab.click("#locksmith-pause")
    assert page.tab.inner_text("#locksmith-pause") == "Resume"
    assert page.news == "Paused: what you see is not refreshed."
    hold("a")
    page.rests(rhythm)
    page.refresh()
    page.shows("a")
    page.rests(rhythm)
    assert page.news.startswith("Paused")
    hold("b")
    page.tab.click("#locksmith-pause")
    page.shows("a", "b")
    assert page.tab.inner_text("#locksmith-pause") == "Pause"
    assert page.news == ""


def test_hidden_tab(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """A tab that nobody sees asks for nothing, and is up to date as soon as it is seen."""
    page = visit()
    rhythm = page.rhythm()
    page.tab.evaluate(HIDDEN, True)
    hold("a")
    page.rests(rhythm)
    page.tab.evaluate(HIDDEN, False)
    page.shows("a")


def test_redis_goes_down_and_comes_back(own_server: Deployment, visit: Callable[..., Visited]) -> None:
    """In trouble the page says so, and keeps what it knew, marked as old; when all is well again it goes on."""
    hold("a")
    page = visit()
    page.box("a").check()
    own_server.server.kill()
    page.until(lambda: page.news.startswith("Whether locks are held is unknown. Redis gave no answer"))
    assert page.keys == ["a"]
    assert page.box("a").is_checked()
    assert page.tab.get_attribute("#changelist", "class") == "module out-of-date"
    own_server.server.start()
    hold("b")
    page.shows("b")
    assert page.tab.get_attribute("#changelist", "class") == "module"


def test_page_that_began_in_trouble(own_server: Deployment, visit: Callable[..., Visited]) -> None:
    """A page that was opened while Redis was down shows the locks when it is back."""
    own_server.server.kill()
    page = visit()
    assert "Whether locks are held is unknown" in page.tab.inner_text("[role=alert]")
    assert page.news == ""
    own_server.server.start()
    hold("a")
    page.shows("a")


def test_site_gives_no_answer(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """When the site itself is away, one is told, and the page goes on as soon as it is back."""
    hold("a")
    page = visit()
    page.tab.route("**/part/", lambda route: route.abort())
    page.until(lambda: page.news.startswith("This site gives no answer."))
    page.tab.unroute("**/part/")
    page.until(lambda: page.news == "")
    assert page.keys == ["a"]
    assert all("ERR_FAILED" in said for said in page.complaints), "Chromium notes what it could not fetch"
    page.complaints.clear()


def test_logged_out(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """Who was logged out meanwhile is told so, and the page stops asking."""
    hold("a")
    page = visit()
    page.shows("a")
    rhythm = page.rhythm()
    page.tab.context.clear_cookies()
    page.until(lambda: page.news.startswith("You are no longer logged in"))
    page.rests(rhythm)
    page.tab.click("#locksmith-refresh")
    page.tab.wait_for_selector("[name=password]")


def test_force_release(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """Tick, button, question, yes: the lock is free, and the page says so."""
    hold("a")
    hold("b")
    page = visit()
    page.box("a").check()
    page.ask_to_release()
    assert page.keys == ["a"]
    assert "A holder that is alive is not stopped by this." in page.tab.inner_text("#content")
    page.tab.click("text=No, take me back")
    page.shows("a", "b")
    page.box("a").check()
    page.ask_to_release()
    page.say_yes()
    page.shows("b")
    assert page.tab.inner_text(".messagelist").strip() == "Released: a"
    page.tab.click("text=History")
    page.tab.wait_for_selector("h1 >> text=Releases by force")
    page.shows("a")
    assert (
        page.tab.inner_text(".locksmith-table tbody").count("Released by force; it was held by web-1:42:MainThread")
        == 1
    )


def test_without_javascript(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """Without JavaScript one sees, searches, refreshes and releases just as well."""
    hold("a:1")
    hold("b:1")
    page = visit(javascript=False)
    assert page.keys == ["a:1", "b:1"]
    assert not page.tab.is_visible("#locksmith-pause")
    assert not page.tab.is_visible("#action-toggle")
    page.tab.fill("#searchbar", "a:")
    page.tab.click("#changelist-search [type=submit]")
    assert page.keys == ["a:1"]
    hold("a:2")
    page.tab.click("#locksmith-refresh")
    assert page.keys == ["a:1", "a:2"]
    page.tab.check("#result_list tbody tr:first-child input")
    page.ask_to_release()
    page.say_yes()
    assert page.keys == ["a:2"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_page_fits_and_can_be_read(valkey: Deployment, visit: Callable[..., Visited], size: str, scheme: str) -> None:
    """Nothing is scrolled sideways, wide or narrow; texts stand out as WCAG AA wants it, in light and dark."""
    page = visit(viewport=SIZES[size], color_scheme=scheme, reduced_motion="reduce")
    assert page.fits()
    hold("import:account:42")
    long = f"{'very-long-' * 40}:{'k' * 300}"
    lease = hold(long, host="h" * 200)
    with valkey.server.client() as client:
        hold("legacy")
        client.set("__locksmith:legacy", "theirs" * 100)
        # As if it had been held for a minute; and it goes on to be about to end, however slow the browser is.
        client.zadd("__locksmith:<index>", {f"__locksmith:{long}": lease.fence - 60_000_000})
        page.until(
            lambda: (
                client.pexpire(f"__locksmith:{long}", 9_000) and page.tab.query_selector(".locksmith-bar.running-out")
            )
        )
    assert page.fits()
    texts = (".locksmith-key bdi", ".locksmith-state.held", ".locksmith-state.running-out")
    for text in (*texts, ".locksmith-state.endless", ".locksmith-holder .quiet", "#locksmith-summary .quiet"):
        assert page.tab.evaluate(CONTRAST, [text, "color"]) >= 4.5, text
    for bar in (".locksmith-bar.held .left", ".locksmith-bar.running-out .left"):
        assert page.tab.evaluate(CONTRAST, [bar, "fill"]) >= 3, bar
    page.tab.check("#action-toggle")
    page.ask_to_release()
    assert page.fits()
    for text in (".locksmith-warning", ".locksmith-key .quiet", ".locksmith-danger"):
        assert page.tab.evaluate(CONTRAST, [text, "color"]) >= 4.5, text
    page.say_yes()
    page.tab.click("text=History")
    page.until(lambda: len(page.keys) >= 2)
    assert page.fits()


def test_keyboard_is_enough(valkey: Deployment, visit: Callable[..., Visited]) -> None:
    """Tab, Space and Enter tick a lock, ask and release."""
    hold("a")
    page = visit()
    page.tab.focus("#locksmith-refresh")
    for _ in range(3):  # the button, all, this one
        page.tab.keyboard.press("Tab")
    page.tab.keyboard.press("Space")
    assert page.box("a").is_checked()
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector("text=Are you sure?")
    page.tab.focus("text=Yes, release by force")
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector("text=Released: a")
