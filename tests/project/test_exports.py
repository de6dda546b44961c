"""What `from django_locksmith import ...` gives."""

from __future__ import annotations

from importlib import import_module

import django_locksmith


def test_all_is_pinned() -> None:
    """The public names are these: one more or less is a decision, not an accident."""
    assert django_locksmith.__all__ == [
        "NOT_MODIFIED",
        "Booking",
        "Holder",
        "Lease",
        "Lock",
        "LockBusy",
        "LockInfo",
        "LockLost",
        "LockReentered",
        "LockUnavailable",
        "Locksmith",
        "LocksmithError",
        "NotModified",
        "PopulateFailed",
        "RateInfo",
        "RateLimit",
        "RetryLater",
        "Skipped",
        "SlotsDiffer",
        "StaleFence",
        "WindowInfo",
        "locksmith",
        "single_flight",
    ]


def test_all_can_be_imported() -> None:
    """Each public name is there, and says something of itself."""
    for name in django_locksmith.__all__:
        assert getattr(import_module("django_locksmith"), name).__doc__


def test_signals_are_pinned() -> None:
    """The signals are these."""
    from django.dispatch import Signal

    from django_locksmith import signals

    found = {name for name, value in vars(signals).items() if isinstance(value, Signal)}
    assert found == {
        *("acquired", "busy", "cleared", "flight", "limited", "lost", "paused", "released", "unavailable"),
    }
