"""The shop of the example project, in a real Chromium: clicked twice, by hand and by script, with and without the lock.

Not part of the default run, for it needs a browser that pip cannot install: `pytest -m browser`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.example.test_example import wait_until
from tests.example.test_page import CONTRAST, PHONE, Visited, chromium, url, visit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Download, Page

__all__ = ["chromium", "url", "visit"]  # the fixtures

pytestmark = pytest.mark.browser

TIMES = 100
A_FEW = 25  # what is known to go wrong shows soon
TABS = 5
"""Each of its own visitor: to one visitor, a browser gives six connections."""
PRESSED = 40
"""Milliseconds for which a button is pressed, and then left alone before the next click. Much faster than any person,
Chromium takes the first click for a slip, and sends the second only."""

FETCH = """
([way, times, number]) => {
  const form = document.querySelector(`button[value=${way}]`).form;
  const body = new URLSearchParams(new FormData(form));
  body.set("number", number);
  const click = async () => (await fetch(form.action, { method: "POST", body })).url;
  window.answers = Promise.all(Array.from({ length: times }, click));
}
"""


@dataclass
class Shop:
    """The shop in a tab of its own."""

    tab: Page

    def open(self) -> None:
        self.tab.click("nav >> text=Umbrellas")
        self.tab.wait_for_selector("h1:has-text('Umbrellas for the weather')")

    def number(self, way: str) -> str:
        return str(self.tab.get_attribute(f"form:has(button[value={way}]) input[name=number]", "value"))

    def buy(self, umbrella: str, way: str = "locked") -> None:
        form = self.tab.locator(f"form:has(button[value={way}])")
        form.get_by_label(umbrella).check()
        form.get_by_role("button").click()

    def receipt(self) -> dict[str, int]:
        """What it says, as soon as it is there."""
        self.tab.wait_for_selector("[data-count]")
        places = self.tab.query_selector_all("[data-count]")
        return {str(place.get_attribute("data-count")): int(place.inner_text()) for place in places}

    def fits(self) -> bool:
        return bool(self.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.fixture
def shops(visit: Callable[..., Visited]) -> Callable[..., list[Shop]]:
    def open_shops(count: int, **context: Any) -> list[Shop]:
        opened = [Shop(visit(**context).tab) for _ in range(count)]
        for shop in opened:
            shop.open()
        return opened

    return open_shops


def double_clicks(shops: list[Shop], way: str, times: int) -> Counter[str]:
    """So many double clicks, each on a page that has just been opened; the sum of what the receipts say."""
    total: Counter[str] = Counter()
    for _ in range(times // len(shops)):
        numbers = []
        for shop in shops:
            shop.open()
            numbers.append(shop.number(way))
            shop.tab.dblclick(f"button[value={way}]", delay=PRESSED, no_wait_after=True)
        for shop, number in zip(shops, numbers, strict=True):
            receipt = shop.receipt()
            assert shop.tab.inner_text("[data-number]") == number
            assert receipt["orders"] == 1
            assert 1 <= receipt["charges"] <= (1 if way == "locked" else receipt["clicks"])
            total.update(receipt)
    return total


def at_once(shops: list[Shop], way: str) -> dict[str, int]:
    """One form, sent so many times at once; what the receipt says in the end."""
    number = shops[0].number(way)
    for shop in shops:
        shop.tab.evaluate(FETCH, [way, TIMES // len(shops), number])
    answers = {answer for shop in shops for answer in shop.tab.evaluate("window.answers")}
    assert len(answers) == 1, "each request got the same receipt"
    assert f"/receipt/{number}/" in min(answers)
    shops[0].tab.goto(min(answers))
    return shops[0].receipt()


def test_double_clicks_are_one_order_and_one_charge(shops: Callable[..., list[Shop]]) -> None:
    """A hundred real double clicks: the server gets both clicks, and each number has one order and one charge."""
    total = double_clicks(shops(TABS), "locked", TIMES)
    print(f"with the lock: {dict(total)}")
    assert (total["orders"], total["charges"]) == (TIMES, TIMES)
    assert total["clicks"] > TIMES, "no double click came as two requests, so nothing was tried"


def test_double_clicks_without_the_lock_are_charged_twice(shops: Callable[..., list[Shop]]) -> None:
    """The same clicks on the form without a lock: one order each, and as many charges as clicks that came."""
    total = double_clicks(shops(TABS), "unlocked", A_FEW)
    print(f"without a lock: {dict(total)}")
    assert total["orders"] == A_FEW
    assert total["charges"] > A_FEW


def test_form_that_is_sent_a_hundred_times_at_once_is_one_charge(shops: Callable[..., list[Shop]]) -> None:
    """One number, sent a hundred times at once by five visitors' browsers: one order, one charge, one receipt."""
    receipt = at_once(shops(TABS), "locked")
    assert receipt == {"clicks": TIMES, "orders": 1, "charges": 1}


def test_form_without_the_lock_that_is_sent_a_hundred_times(shops: Callable[..., list[Shop]]) -> None:
    """The same without a lock: one order, for the database refuses a second, but many charges."""
    receipt = at_once(shops(TABS), "unlocked")
    print(f"without a lock: {receipt}")
    assert (receipt["clicks"], receipt["orders"]) == (TIMES, 1)
    assert receipt["charges"] > 1


def test_form_that_one_goes_back_to_is_for_another_order(shops: Callable[..., list[Shop]]) -> None:
    """The browser's Back button leads to a form with a new number: who buys there wants a second umbrella."""
    (shop,) = shops(1)
    number = shop.number("locked")
    shop.buy("Drizzle")
    assert shop.receipt() == {"clicks": 1, "orders": 1, "charges": 1}
    shop.tab.go_back()
    shop.tab.wait_for_selector("button[value=locked]")
    assert shop.number("locked") != number


def test_last_umbrella(visit: Callable[..., Visited]) -> None:
    """Who wants more than there is is told so, and pays nothing; the shop shows it as well."""
    visited = visit()
    shop = Shop(visited.tab)
    for _ in range(2):
        shop.open()
        shop.buy("Storm")
        assert shop.receipt()["charges"] == 1
    shop.open()
    assert "sold out" in shop.tab.inner_text("label:has-text('Storm')")
    shop.buy("Storm")
    shop.tab.wait_for_selector("h1:has-text('Sold out')")
    assert "Your card was not charged." in shop.tab.inner_text("main")
    assert shop.fits()
    visited.complaints.clear()  # Chromium itself notes the 409


def download(tab: Page) -> Download:
    with tab.expect_download() as begun:
        tab.click("text=Download the report")
    return begun.value


def test_report_is_for_one_at_a_time(visit: Callable[..., Visited]) -> None:
    """While the report is sent, another visitor gets our own page, and the admin shows the lock; then it is free."""
    first, second, admin = visit(), visit(), visit()
    admin.tab.click("nav >> text=Admin: locks")
    admin.tab.fill("[name=username]", "admin")
    admin.tab.fill("[name=password]", "admin")
    admin.tab.click("[type=submit]")
    admin.tab.wait_for_selector("#locksmith-summary")
    admin.complaints.clear()  # Django's admin has no icon, which Chromium notes
    for visited in (first, second):
        Shop(visited.tab).open()
    loaded = download(first.tab)
    second.tab.click("text=Download the report")
    second.tab.wait_for_selector("h1:has-text('One moment, please')")
    assert Shop(second.tab).fits()
    second.complaints.clear()  # Chromium itself notes the 409
    admin.tab.click("#locksmith-refresh")
    admin.tab.wait_for_selector("tbody .locksmith-key bdi:has-text('report')")
    assert report_of(loaded).startswith("umbrella,price,left,orders,charges\n")
    second.tab.click("nav >> text=Umbrellas")
    assert report_of(download(second.tab)).count("\n") == 4


def report_of(loaded: Download) -> str:
    path: Path = loaded.path()
    return path.read_text()


def test_report_that_is_cancelled_is_free_for_the_next(visit: Callable[..., Visited]) -> None:
    """Who stops the download gives the report free."""
    visited = visit()
    Shop(visited.tab).open()
    download(visited.tab).cancel()
    address = str(visited.tab.evaluate("document.querySelector('main a.button').href"))

    def is_free() -> bool:
        return bool(visited.tab.evaluate(f"fetch('{address}').then(said => (said.body.cancel(), said.ok))"))

    wait_until(is_free, "the report is free")
    visited.complaints.clear()  # Chromium itself notes a 409


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shop_fits_a_phone_and_can_be_read(shops: Callable[..., list[Shop]], scheme: str) -> None:
    """At a phone's width nothing must be scrolled sideways; texts stand out as WCAG AA wants it (4.5 to 1)."""
    (shop,) = shops(1, viewport=PHONE, color_scheme=scheme)
    assert shop.fits()
    for text in ("nav a", "header p", "button span", ".umbrellas .quiet", "a.button"):
        assert shop.tab.evaluate(CONTRAST, [text, "color"]) >= 4.5, text
    shop.tab.dblclick("button[value=unlocked]", delay=PRESSED, no_wait_after=True)
    assert shop.receipt()["orders"] == 1
    assert shop.fits()
    for text in ("dt", "dd", "main .quiet"):
        assert shop.tab.evaluate(CONTRAST, [text, "color"]) >= 4.5, text
