"""What is looked through, and which faults the model must be refuted with."""

from __future__ import annotations

from typing import Final, NamedTuple

Settings = dict[str, int | None]

NOTHING: Final[Settings] = {"CUTS": 0, "DOUBLES": 0, "KILLS": 0, "STOPS": 0, "LAPSES": 0, "GIVE_UPS": 0}


class Case(NamedTuple):
    """`served`: that everybody has the lock in the end; else that never two believe so."""

    name: str
    settings: Settings
    served: bool = False
    is_quick: bool = True


def _two(name: str, *, served: bool = False, is_quick: bool = True, **more: int) -> Case:
    return Case(f"two clients, {name}", {**NOTHING, "CLIENTS": 2, **more}, served, is_quick)


CASES: Final = (
    _two("one gives up, a lease ends unheard", GIVE_UPS=1, LAPSES=1),
    _two("a connection breaks", CUTS=1, LAPSES=1),
    _two("a request comes twice", DOUBLES=1, LAPSES=1, GIVE_UPS=1),
    _two("one is killed", KILLS=1, LAPSES=1, GIVE_UPS=1),
    _two("one stands still", STOPS=1, LAPSES=1, GIVE_UPS=1),
    _two("each gets it", served=True, KILLS=1),
)


class Mutant(NamedTuple):
    """A fault that is put in by `#ifdef`, and the case that finds it. `breaks`: what does not hold any more."""

    define: str
    breaks: str
    case: Case


MUTANTS: Final = (
    Mutant("TAKEN_THOUGH_IT_IS_HELD", "a lock is free before it is taken", CASES[0]),
    Mutant("RELEASE_FREES_WHATEVER_IS_THERE", "only its holder gives it back", CASES[0]),
    Mutant("CLAIM_WITHOUT_A_PLACE", "who has given up is granted nothing", CASES[0]),
    Mutant("DEADLINE_FROM_THE_REPLY", "who hears too late of his grant does not believe it", CASES[0]),
    Mutant("NO_PROBE", "whoever waits looks whether the holder has died", CASES[5]),
    Mutant("NO_CLAIM_TIME", "a lock that nobody claims is free soon", CASES[5]),
)
