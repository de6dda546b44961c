"""Slots where people meet them: commands, the admin's page, views; tasks are in test_tasks.py."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.http import HttpResponse
from django.test import RequestFactory, override_settings

from django_locksmith import locksmith
from django_locksmith.decorators import lock_view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.test import Client

    from django_locksmith import Lease
    from tests.helpers.deployments import Deployment


def run(command: str, *arguments: str) -> str:
    out = StringIO()
    call_command(command, *arguments, stdout=out, stderr=out, no_color=True)
    return out.getvalue()


@contextmanager
def two_of_three(key: str = "erp", slots: Any = 3) -> Iterator[tuple[Lease, Lease]]:
    with locksmith(key, slots=slots, label="one") as one, locksmith(key, slots=slots, label="other") as other:
        yield one, other


def test_list(valkey: Deployment) -> None:
    """Each holder has a line, with how many of how many are taken; without slots there is no such column."""
    with locksmith("a lock"):
        assert "SLOTS" not in run("locksmith_list")
        with two_of_three(), two_of_three("licence", ["x", "y z", "z"]):
            lines = [re.split("  +", line) for line in run("locksmith_list").splitlines()]
            listed = json.loads(run("locksmith_list", "--json"))
    assert lines[0][:3] == ["KEY", "SLOTS", "HOLDER"]
    assert [line[:2] for line in lines[2:]] == [
        ["erp", "2 of 3"],
        ["erp", "2 of 3"],
        ["licence", "x, 2 of 3"],
        ["licence", "y z, 2 of 3"],
    ]
    assert [(each["slots"], each["taken"], each["slot"]) for each in listed] == [
        (None, 1, ""),
        (3, 2, ""),
        (3, 2, ""),
        (3, 2, "x"),
        (3, 2, "y z"),
    ]


def test_clear(valkey: Deployment) -> None:
    """By its key all holders lose theirs, by an owner only his; each is named with its slot."""
    leases = [locksmith("erp", slots=["x", "y", "z"], label=label).acquire() for label in ("a", "b", "c")]
    out = run("locksmith_clear", "--owner", "b", "--yes")
    assert "erp (y, 3 of 3)  held by " in out
    assert "1 lock cleared." in out
    assert sorted(info.slot for info in locksmith.holders("erp")) == ["x", "z"]
    assert "2 locks cleared." in run("locksmith_clear", "erp", "--yes")
    assert locksmith.locks() == []
    del leases


def test_run(valkey: Deployment, capfd: pytest.CaptureFixture[str]) -> None:
    """A command runs while so many others may, finds its slot in the environment, and is told how many are taken."""
    how = ["--slots", "x,y"]
    with locksmith("licence", slots=["x", "y"]):
        call_command("locksmith_run", "licence", *how, "--", "sh", "-c", 'echo "<$LOCKSMITH_SLOT>"')
        assert capfd.readouterr().out == "<y>\n"
        told = "All 2 slots of licence are taken"
        with locksmith("licence", slots=["x", "y"]), pytest.raises(CommandError, match=told) as no:
            call_command("locksmith_run", "licence", *how, "--", "true")
        assert no.value.returncode == 75
        with pytest.raises(CommandError, match="asked for as slots=3, held as a list of 2 slots") as wrong:
            call_command("locksmith_run", "licence", "--slots", "3", "--", "true")
        assert wrong.value.returncode == 2
    for slots in ("0", "x,", "x,x", "-1"):
        with pytest.raises(CommandError, match="slots") as refused:
            call_command("locksmith_run", "licence", f"--slots={slots}", "--", sys.executable, "-c", "")
        assert refused.value.returncode == 2
    assert not valkey.left_behind()


@pytest.mark.django_db
def test_admin(valkey: Deployment, admin_client: Client) -> None:
    """The page has a row for each holder, and takes the slot from the one that was ticked, and from no other."""
    lock = locksmith("erp", slots=["x", "y", "z"], on_lost="log")
    with lock as one, lock as other:
        page = admin_client.get("/admin/django_locksmith/lock/").content.decode()
        rows = re.findall(r'<tr role="row" data-key.*?</tr>', page, re.DOTALL)
        assert len(rows) == 2
        assert ["slots: x, 2 of 3" in row for row in rows].count(True) == 1
        box = json.dumps(["erp", one.token])
        asked = admin_client.post("/admin/django_locksmith/lock/release/", {"_selected_action": [box]})
        assert "slots: x, 2 of 3" in asked.content.decode()
        admin_client.post("/admin/django_locksmith/lock/release/", {"_selected_action": [box], "confirmed": "1"})
        assert [info.holder.token for info in locksmith.holders("erp") if info.holder] == [other.token]


def test_view(valkey: Deployment) -> None:
    """So many requests of a kind are served at a time; one more hears that it is busy."""

    @lock_view("{path}", methods=["GET"], slots=2)
    def view(request: Any, deeper: int) -> HttpResponse:
        return view(request, deeper - 1) if deeper else HttpResponse("done")  # type: ignore[no-any-return]

    with override_settings(ROOT_URLCONF="tests.urls"):
        statuses = [view(RequestFactory().get("/a"), deeper).status_code for deeper in (0, 1, 2)]
    assert statuses == [200, 200, 409]
