"""The umbrellas that the shop opens with."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.db import migrations

if TYPE_CHECKING:
    from django.apps.registry import Apps

UMBRELLAS = (
    ("drizzle", "Drizzle", "fits in a pocket", Decimal("9.50"), 1000),
    ("downpour", "Downpour", "for two", Decimal("24.00"), 250),
    ("storm", "Storm", "does not turn inside out", Decimal("59.00"), 2),
)


def open_shop(apps: Apps, editor: Any) -> None:
    umbrellas = apps.get_model("shop", "Umbrella").objects.using(editor.connection.alias)
    for slug, name, note, price, full in UMBRELLAS:
        umbrellas.create(slug=slug, name=name, note=note, price=price, full=full, left=full)


class Migration(migrations.Migration):
    dependencies = (("shop", "0001_initial"),)
    operations = (migrations.RunPython(open_shop, migrations.RunPython.noop),)
