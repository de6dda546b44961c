"""The admin's page of locks: who holds what, and the force to take it away.

Locks are no rows of a table, so the views are the page's own. To have it on another site than the default one:
`site.register(Lock, LockAdmin)`, with `Lock` from `django_locksmith.models`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import django
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.admin.views.main import PAGE_VAR
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import BadRequest, ImproperlyConfigured, PermissionDenied
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from .admin_page.limit_list import limits_for
from .admin_page.lock_list import HeldLock, LockList, Row
from .api.service import locksmith
from .exceptions import LockUnavailable
from .formatting import printable, shortened
from .models import Lock

if TYPE_CHECKING:
    from typing import TypeGuard

    from django.http import HttpRequest, HttpResponse
    from django.urls import URLPattern
    from django.utils.functional import _StrPromise

    from .api.service import Locksmith
    from .records import LockInfo

    Base = admin.ModelAdmin[Lock]
else:
    Base = admin.ModelAdmin  # cannot be subscripted when it runs

logger = logging.getLogger("django_locksmith.admin")

TROUBLE = (LockUnavailable, ImproperlyConfigured)
"""What keeps one from looking at the locks; a cluster that is down at its first use raises what redis-py raises."""


@admin.register(Lock)
class LockAdmin(Base):
    """Shows the locks of `service`, and releases them by force.

    `refresh_every`: seconds between two refreshes of the page. `list_per_page`: rows of a page. Needs the permission
    `django_locksmith.view_lock`; a release by force `django_locksmith.release_lock`, too. When Redis is down, the page
    says so.
    """

    service: Locksmith = locksmith
    refresh_every = 5

    # ---- who may do what

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Lock | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Lock | None = None) -> bool:
        return False

    def has_release_permission(self, request: HttpRequest) -> bool:
        """May this user take locks from their holders?"""
        return bool(request.user.has_perm(f"{self.opts.app_label}.release_lock"))

    def _admit(self, request: HttpRequest, *, release: bool = False) -> None:
        if not self.has_view_permission(request) or (release and not self.has_release_permission(request)):
            raise PermissionDenied

    # ---- where

    def get_urls(self) -> list[URLPattern]:
        views = [
            ("", self.changelist_view, "changelist"),
            ("part/", self.part_view, "part"),
            ("release/", self.release_view, "release"),
            ("history/", self.releases_view, "history"),
        ]
        return [path(route, self.admin_site.admin_view(view), name=self._name(name)) for route, view, name in views]

    def _name(self, view: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{view}"

    def _url(self, view: str, request: HttpRequest | None = None) -> str:
        """With the parameters of the request, if given: they say what part of the list is looked at."""
        url = reverse(f"admin:{self._name(view)}", current_app=self.admin_site.name)
        return f"{url}?{request.GET.urlencode()}" if request and request.GET else url

    def _template(self, name: str) -> list[str]:
        # A subclass for another model of another app may have templates of its own.
        own = f"admin/{self.opts.app_label}/{self.opts.model_name}/{name}.html"
        return [own, f"admin/django_locksmith/lock/{name}.html"]

    # ---- looking

    @method_decorator(require_safe)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """The page."""
        self._admit(request)
        return self._answer(request, "changelist", {**self._list(request), **(extra_context or {})})

    @method_decorator(require_safe)
    def part_view(self, request: HttpRequest) -> TemplateResponse:
        """What of the page is fetched again and again."""
        self._admit(request)
        return self._answer(request, "part", self._list(request))

    def _answer(self, request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
        request.current_app = self.admin_site.name
        everywhere = {
            **self.admin_site.each_context(request),
            "title": _("Locks"),
            "subtitle": None,
            "opts": self.opts,
            "everything_url": self._url("changelist"),
            "list_url": self._url("changelist", request),
            "breadcrumbs_in_list": django.VERSION >= (6, 1),  # its style sheets know no others
        }
        return TemplateResponse(request, self._template(template), {**everywhere, **context})

    def _list(self, request: HttpRequest) -> dict[str, Any]:
        context = {
            "may_release": self.has_release_permission(request),
            "checkbox": ACTION_CHECKBOX_NAME,
            "refresh_every": self.refresh_every,
            "history_url": self._url("history"),
            "part_url": self._url("part", request),
            "release_url": self._url("release", request),
        }
        try:
            lock_list = LockList(self.service, request.GET)
            limits = limits_for(self.service, request.GET)
        except TROUBLE as error:
            # Not a 503: Django would mail it to the site's admins, every few seconds from every open tab, and a proxy
            # may put a page of its own in the place of this one, which works.
            logger.warning("The locks cannot be listed: %s", error)
            return {**context, "trouble": _explain(error)}
        context["limits"] = limits
        return {**context, "lock_list": lock_list, "now": timezone.now(), **self._page(request, lock_list.rows)}

    def _page(self, request: HttpRequest, items: Any) -> dict[str, Any]:
        paginator = self.get_paginator(request, items, self.list_per_page)
        page = paginator.get_page(request.GET.get(PAGE_VAR))
        numbers = paginator.get_elided_page_range(page.number) if paginator.num_pages > 1 else ()
        asked = request.GET.copy()
        pages = []
        for number in numbers:
            asked[PAGE_VAR] = str(number)
            pages.append((number, f"?{asked.urlencode()}" if isinstance(number, int) else ""))
        return {"page": page, "pages": pages}

    @method_decorator(require_safe)
    def releases_view(self, request: HttpRequest) -> TemplateResponse:
        """The releases by force, the latest first."""
        self._admit(request)
        kind = ContentType.objects.get_for_model(self.model, for_concrete_model=False)
        entries = LogEntry.objects.filter(content_type=kind).select_related("user").order_by("-action_time", "-pk")
        context = {
            "title": _("Releases by force"),
            "list_url": self._url("changelist"),
            **self._page(request, entries),
        }
        return self._answer(request, "history", context)

    # ---- releasing

    def release_view(self, request: HttpRequest) -> HttpResponse:
        """Asks whether it is meant, and then takes the ticked locks from those holders that were shown."""
        self._admit(request, release=True)
        back = HttpResponseRedirect(self._url("changelist", request))
        if request.method != "POST":
            return back  # who had to log in again comes back by GET
        selection = _selection_in(request.POST.getlist(ACTION_CHECKBOX_NAME))
        if not selection:
            self.message_user(request, gettext("Select the locks that are to be released."), messages.WARNING)
        elif "confirmed" in request.POST:
            self._release(request, selection)
        else:
            return self._confirm(request, selection) or back
        return back

    def _confirm(self, request: HttpRequest, selection: list[HeldLock]) -> TemplateResponse | None:
        try:
            seen = [(held, self._look(held)) for held in selection]
        except TROUBLE as error:
            self.message_user(request, _explain(error), messages.ERROR)
            return None
        rows = []
        for held, info in seen:
            if _is_of(info, held):
                rows.append(Row(info, self.service.settings.timeout))
            else:
                self._say_left_alone(request, held, info)
        if not rows:
            return None
        context = {
            "title": _("Are you sure?"),
            "rows": rows,
            "checkbox": ACTION_CHECKBOX_NAME,
            "release_url": self._url("release", request),
        }
        return self._answer(request, "release_confirmation", context)

    def _release(self, request: HttpRequest, selection: list[HeldLock]) -> None:
        for done, held in enumerate(selection):
            name = _name_of(held)
            try:
                info = self._look(held)
                if _is_of(info, held) and self.service.clear(info):
                    self._record(request, info)
                    self.message_user(request, gettext("Released: %s") % name, messages.SUCCESS)
                else:
                    self._say_left_alone(request, held, self._look(held))
            except TROUBLE as error:
                text = gettext("%(trouble)s This lock may have been released or not: %(name)s")
                self.message_user(request, text % {"trouble": _explain(error), "name": name}, messages.ERROR)
                logger.warning("%s cannot be sure to have released %s: %s", request.user, name, error)
                for other in selection[done + 1 :]:
                    self.message_user(request, gettext("Not released: %s") % _name_of(other), messages.ERROR)
                return

    def _look(self, held: HeldLock) -> LockInfo | None:
        try:
            holders = self.service.holders(held.key)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        return next((info for info in holders if _is_of(info, held)), holders[0] if holders else None)

    def _say_left_alone(self, request: HttpRequest, held: HeldLock, info: LockInfo | None) -> None:
        text = gettext("Already free: %s") if info is None else gettext("Changed hands meanwhile, left alone: %s")
        self.message_user(request, text % _name_of(held), messages.WARNING)

    def _record(self, request: HttpRequest, info: LockInfo) -> None:
        holder = printable(str(info.holder))
        logger.warning("%s released %s by force; it was held by %s", request.user, printable(info.key), holder)
        # Databases refuse bytes that are no text, which a key may have.
        lock = self.model(key=printable(info.key))
        self.log_change(request, lock, gettext("Released by force; it was held by %s.") % holder)


def _selection_in(values: list[str]) -> list[HeldLock]:
    try:
        return list(dict.fromkeys(map(HeldLock.read, values)))
    except (ValueError, RecursionError) as error:
        raise BadRequest(str(error)) from error


def _name_of(held: HeldLock) -> str:
    return shortened(printable(held.key))


def _is_of(info: LockInfo | None, held: HeldLock) -> TypeGuard[LockInfo]:
    return info is not None and info.holder is not None and info.holder.token == held.token


def _explain(error: Exception) -> str | _StrPromise:
    if isinstance(error, ImproperlyConfigured):
        return gettext("The settings are at fault: %s.") % str(error).rstrip(".")
    return gettext("Whether locks are held is unknown. %s.") % str(error).rstrip(".")
