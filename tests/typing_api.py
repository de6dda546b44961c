"""The public interface as type checkers see it. Never run: `mypy --strict` and pyright read it, and must be content."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_type

from django_locksmith import (
    Booking,
    Holder,
    Lease,
    Lock,
    LockBusy,
    LockInfo,
    LockLost,
    LockReentered,
    Locksmith,
    LocksmithError,
    LockUnavailable,
    RateInfo,
    RateLimit,
    Skipped,
    locksmith,
    signals,
    single_flight,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


# ---- making locks

assert_type(locksmith, Locksmith)
assert_type(Locksmith(redis="other", prefix="billing:", timeout=30), Locksmith)
assert_type(locksmith(), Lock)
assert_type(locksmith("a"), Lock)
assert_type(locksmith("a", None, timeout=timedelta(minutes=1), blocking=False), Lock)
assert_type(locksmith("a", blocking_timeout=None, renew=True, max_hold=None, label="me"), Lock)
assert_type(locksmith("a", on_busy="skip", on_lost="log"), Lock[Skipped])
assert_type(Locksmith(max_hold=None, min_replicas=1, blocking_timeout=timedelta(seconds=5)), Locksmith)
Locksmith(time=30)  # type: ignore[call-arg]
Locksmith(timeout="30")  # type: ignore[arg-type]


def is_busy(error: LockBusy) -> int:
    return 0


def is_lost(lease: Lease) -> None: ...


assert_type(locksmith("a", on_busy=is_busy, on_lost=is_lost), Lock[Any])

locksmith(7)  # type: ignore[call-overload]
locksmith("a", timeout="30")  # type: ignore[call-overload]
locksmith("a", timeout=None)  # type: ignore[call-overload]
locksmith("a", on_busy="wait")  # type: ignore[call-overload]
locksmith("a", time=30)  # type: ignore[call-overload]
locksmith(key="a")  # type: ignore[call-overload]


# ---- blocks and leases


def in_a_thread(lock: Lock) -> None:
    with lock as lease:
        assert_type(lease, Lease)
    taken = lock.acquire()
    assert_type(taken, Lease | None)
    if other := lock.acquire(blocking=False):
        assert_type(other, Lease)
    lock.acquire(True, 5, "token")
    lock.acquire(blocking_timeout=timedelta(seconds=5))
    assert_type(lock.extend(5, replace_ttl=True), bool)
    assert_type(lock.reacquire(), bool)
    assert_type(lock.locked(), bool)
    assert_type(lock.owned(), bool)
    lock.release()
    assert_type((lock.key, lock.name), tuple[str, str])
    assert_type((lock.timeout, lock.blocking_timeout), tuple[float, float | None])
    if taken is not None:
        with taken as same:
            assert_type(same, Lease)
        assert_type((taken.key, taken.token, taken.fence), tuple[str, str, int])
        assert_type((taken.remaining, taken.timeout, taken.deadline), tuple[float, float, float])
        assert_type((taken.held, taken.lost), tuple[bool, bool])
        taken.ensure_held()
        taken.extend()
        taken.extend(timedelta(seconds=5), replace_ttl=True)
        assert_type(taken.release(), bool)


async def in_a_task(lock: Lock) -> None:
    async with lock as lease:
        assert_type(lease, Lease)
    taken = await lock.aacquire(blocking=False, blocking_timeout=None, token=None)
    assert_type(taken, Lease | None)
    assert_type(await lock.aextend(5), bool)
    assert_type(await lock.areacquire(), bool)
    assert_type(await lock.alocked(), bool)
    assert_type(await lock.aowned(), bool)
    await lock.arelease()
    if taken is not None:
        async with taken as same:
            assert_type(same, Lease)
        await taken.aextend(5, replace_ttl=True)
        assert_type(await taken.arelease(), bool)


# ---- around functions: the signature stays


@locksmith("import:{account}", blocking=False, on_busy="skip")
def import_account(account: int, *, force: bool = False) -> str:
    return str(account)


@locksmith()
async def import_soon(account: int) -> list[str]:
    return []


@locksmith("import:{account}", on_busy="skip")
async def import_if_free(account: int) -> int:
    return account


class Report:
    @locksmith("report:{self.pk}")
    def build(self, deep: bool = False) -> bytes:
        return b""


async def call_them(report: Report) -> None:
    assert_type(import_account(7, force=True), str | Skipped)
    assert_type(await import_if_free(7), int | Skipped)
    assert_type(await import_soon(7), list[str])
    assert_type(report.build(deep=True), bytes)
    import_account("7")  # type: ignore[arg-type]
    report.build(1, 2)  # type: ignore[call-arg, arg-type]


# ---- the callback form


def work(release: Callable[[], bool]) -> int:
    assert_type(release(), bool)
    return 1


async def work_soon(release: Callable[[], Awaitable[bool]]) -> int:
    assert_type(await release(), bool)
    return 1


def work_without_types(release: Any) -> int:
    return 1


async def with_callbacks() -> None:
    assert_type(locksmith("a", work), int)
    assert_type(locksmith("a", work, timeout=30, on_busy="raise"), int)
    assert_type(locksmith("a", work_without_types), int)
    assert_type(locksmith("a", lambda release: [release()]), list[bool])
    assert_type(await locksmith("a", work_soon), int)
    assert_type(locksmith("a").run(work), int)
    assert_type(locksmith("a", work, on_busy="skip"), int | Skipped)
    assert_type(await locksmith("a", work_soon, on_busy="skip"), int | Skipped)
    assert_type(await locksmith("a").arun(work_soon), int)


# ---- looking in


def look(service: Locksmith) -> None:
    assert_type(service.locks("a*"), list[LockInfo])
    info = service.info("a")
    assert_type(info, LockInfo | None)
    if info is not None:
        assert_type((info.key, info.holder, info.waiters), tuple[str, Holder | None, int])
        assert_type((info.held_for, info.remaining, info.fence), tuple[float | None, float | None, int | None])
        assert_type(info.as_dict(), dict[str, Any])
        assert_type(service.clear(info, "b", pattern="*"), list[LockInfo])
    assert_type(service.settings.timeout, float)


async def look_soon(service: Locksmith) -> None:
    assert_type(await service.alocks(), list[LockInfo])
    assert_type(await service.ainfo("a"), LockInfo | None)
    assert_type(await service.aclear("a"), list[LockInfo])


# ---- outcomes


def handle() -> str:
    try:
        with locksmith("a"):
            return ""
    except LockReentered as error:
        return error.key
    except LockBusy as error:
        assert_type((error.key, error.holder, error.retry_after), tuple[str, Holder | None, float | None])
        return str(error.holder)
    except LockLost as error:
        assert_type((error.key, error.why), tuple[str, str])
        return error.why
    except LockUnavailable as error:
        return str(error.__cause__)
    except LocksmithError:
        return ""


def skipped(result: str | Skipped) -> str:
    if isinstance(result, Skipped):
        assert_type((result.key, result.holder), tuple[str, Holder | None])
        return result.key
    return result


def watch(lease: Lease, **named: Any) -> None: ...


signals.acquired.connect(watch)


# ---- computed once


def a_number() -> int:
    return 1


async def a_number_later() -> int:
    return 1


assert_type(locksmith.get_or_set("a", a_number), int)
assert_type(locksmith.get_or_set("a", a_number, 300, 2, stale=60, on_error="stale", cache="other"), int)
assert_type(locksmith.get_or_set("a", "a value", None), str)
locksmith.get_or_set("a", a_number, on_error="ignore")  # type: ignore[call-overload]
locksmith.get_or_set("a", a_number, fresh=3)  # type: ignore[call-overload]
locksmith.invalidate("a", cache="other")


async def computed_in_a_task() -> None:
    assert_type(await locksmith.aget_or_set("a", a_number_later, 300, error_ttl=timedelta(seconds=5)), int)
    assert_type(await locksmith.aget_or_set("a", a_number), int)
    assert_type(await locksmith.ainvalidate("a"), None)


@single_flight(key="user:{number}", timeout=300, stale=60)
def user(number: int, *, deep: bool = False) -> str:
    return ""


@single_flight(key="user:{number}")
async def user_later(number: int) -> str:
    return ""


class Summarised:
    @single_flight("report:{self}", 60)
    def summary(self, deep: bool = False) -> bytes:
        return b""

    @single_flight("report:{self}", 60)
    async def summary_later(self, number: int) -> bytes:
        return b""


assert_type(user(7, deep=True), str)
user("7")  # type: ignore[arg-type]
user.invalidate(7)
user.invalidate()  # type: ignore[call-arg]
assert_type(Summarised().summary(), bytes)
Summarised.summary.invalidate(Summarised())
assert_type(Summarised.summary(Summarised(), deep=True), bytes)
Summarised().summary.invalidate(deep=True)
Summarised().summary("yes")  # type: ignore[arg-type]
Summarised().summary.invalidate(7, 7)  # type: ignore[call-arg, arg-type]


async def decorated_in_a_task() -> None:
    assert_type(await user_later(7), str)
    await user_later.ainvalidate(7)
    assert_type(await Summarised().summary_later(7), bytes)
    await Summarised().summary_later.ainvalidate(7)


# ---- slots

assert_type(locksmith("erp", slots=10), Lock)
assert_type(locksmith("erp", slots=["a", "b"], on_busy="skip"), Lock[Skipped])
assert_type(locksmith.holders("erp"), list[LockInfo])
locksmith("erp", slots=2.5)  # type: ignore[call-overload]


# ---- rate limits


def numbers(keys: list[str]) -> dict[str, int]:
    return {}


twitter = locksmith.rate_limit("twitter", "15/15m", blocking_timeout=None, caution=0.1)
assert_type(twitter, RateLimit)
assert_type(locksmith.rate_limit("twitter"), RateLimit)
assert_type(locksmith.get_many_or_set(["a"], numbers, 300, most=10, rate_limit=twitter), dict[str, int])
assert_type(locksmith.get_or_set("a", a_number, rate_limit=twitter, stale=60, refresh="thread"), int)
assert_type(locksmith.get_or_set("a", a_number, rate_limit=twitter, stale=60, patience=0.1), int)
assert_type(locksmith.get_or_set("a", a_number, rate_limit="twitter", stale=60, refresh=lambda work: work()), int)
locksmith.get_or_set("a", a_number, stale=60, refresh="celery")  # type: ignore[call-overload]
locksmith.rate_limit("twitter", 15)  # type: ignore[arg-type]
assert_type(locksmith.rate_limits("tw*"), list[RateInfo])
assert_type(locksmith.rate_limits()[0].windows[0].used, int)


@twitter
def call_the_api(number: int) -> str:
    return ""


@twitter
async def call_the_api_async(number: int) -> str:
    return ""


assert_type(call_the_api(7), str)


def with_places() -> None:
    with twitter as booking:
        assert_type(booking, Booking)
        assert_type(booking.at, float | None)
    assert_type(twitter.take(cost=2, blocking_timeout=timedelta(seconds=5)), Booking)
    twitter.pause(timedelta(seconds=20))
    twitter.sync(remaining=3, reset=120, limit=15)
    twitter.sync_from({"Retry-After": "20"})


async def with_places_of_tasks() -> None:
    async with twitter as booking:
        assert_type(booking, Booking)
    assert_type(await twitter.atake(blocking=False), Booking)
    assert_type(await call_the_api_async(7), str)
    await twitter.apause(20)
    await twitter.a_sync(remaining=3, reset=120)
    await twitter.a_sync_from({"Retry-After": "20"})
