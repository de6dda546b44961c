"""A job that every server's crontab starts at the same minute, and that only one of them is to do."""

from __future__ import annotations

from typing import Any

from django.core.management import BaseCommand

from django_locksmith import LockBusy, locksmith
from weather.forecasts import forecast

CITIES = ("Lisbon", "Oslo", "Reykjavik")


class Command(BaseCommand):
    help = "Print tomorrow's weather; does nothing while another server is at it."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            # However long the report takes, a short lease does: it is renewed as long as this process lives.
            with locksmith("nightly_report", timeout=15, renew=True, blocking=False):
                self._report()
        except LockBusy as busy:
            self.stdout.write(f"Nothing to do: {busy.holder or 'another server'} is writing the report.")

    def _report(self) -> None:
        for city in CITIES:
            self.stdout.write(f"{city:<12}{forecast(city)['celsius']:>4} degrees")
        self.stdout.write("The report is complete.")
