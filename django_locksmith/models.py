"""What the permissions of the admin page hang on. Locks live in Redis: there is no table, and no migration."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from .formatting import printable


class _NoLocks(models.Manager["Lock"]):
    """Finds nothing, instead of failing for want of a table: `dumpdata`, for one, asks every model for its rows."""

    def get_queryset(self) -> models.QuerySet[Lock]:
        return super().get_queryset().none()


class Lock(models.Model):
    """A lock as the admin names it; not `django_locksmith.Lock`, which is what one takes.

    It has the same name all the same, because permissions and addresses are made of it: `django_locksmith.view_lock`
    for those who may see the locks, `django_locksmith.release_lock` for those who may take them from their holders.
    """

    key = models.TextField(_("key"), primary_key=True)

    objects: ClassVar[models.Manager[Lock]] = _NoLocks()

    class Meta:
        managed = False
        base_manager_name = "objects"
        verbose_name = _("lock")
        verbose_name_plural = _("locks")
        default_permissions = ("view",)
        permissions = (("release_lock", "Can force the release of a lock"),)

    def __str__(self) -> str:
        return printable(self.key)
