"""Rate limits on the admin's page."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

import pytest
from django.utils.html import strip_tags

from django_locksmith import locksmith
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from django.test import Client

    from tests.helpers.deployments import Deployment

pytestmark = pytest.mark.django_db
LIST = "/admin/django_locksmith/lock/"


def limits(client: Client, **asked: str) -> list[str]:
    """The rows of the table, each as the text that one reads."""
    for url in (LIST, f"{LIST}part/"):
        page = client.get(url, asked).content.decode()
        assert page.count('id="locksmith-limits"') == 1
        part = page[page.index('id="locksmith-limits"') :]
        rows = re.findall(r'<tr role="row" data-key.*?</tr>', part, re.DOTALL)
    return [" ".join(html.unescape(strip_tags(row)).split()) for row in rows]


def test_limits(valkey: Deployment, admin_client: Client) -> None:
    """Each limit in use has a row: what is used of each window, the next place, the pause, and how many wait."""
    assert limits(admin_client) == []
    twitter = locksmith.rate_limit("twitter <b>", "2/30s, 100/h", blocking_timeout=None)
    for _ in range(2):
        twitter.take()
    github = locksmith.rate_limit("github", "5/m")
    github.take()
    github.pause(90)
    one, other = limits(admin_client)
    assert re.fullmatch(r"github 5/m 1 of 5 in 1 min 0 s in 1 min \d+ s for 1 min \d+ s 0", one)
    assert re.fullmatch(r"twitter <b> 2/30s, 100/h 2 of 2 in 30 s 2 of 100 in 1 h 0 min in \d+ s no 0", other)
    assert limits(admin_client, q="GITHUB") == limits(admin_client)[:1]
    page = admin_client.get(LIST).content.decode()
    assert "twitter &lt;b&gt;" in page
    assert page.count('class="left" width="100%"') == 1
    assert page.count('class="left" width="20%"') == 1


def test_who_waits(valkey: Deployment, admin_client: Client) -> None:
    """Calls that have places in the time to come are counted, and the next place is behind theirs."""
    limit = locksmith.rate_limit("api", "1/6s")
    limit.take()
    waiting = in_thread(limit.take)
    poll(lambda: locksmith.rate_limits()[0].waiting == 1)
    (row,) = limits(admin_client)
    assert re.fullmatch(r"api 1/6s 1 of 1 in 6\.0 s in \d+(\.\d)? s no 1", row)
    waiting.result(30)
