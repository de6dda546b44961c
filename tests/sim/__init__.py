"""Deterministic simulation: whole processes of ours, their network and their Redis, in virtual time, from one seed.

Nothing of the package is imitated. Its tasks run on a loop whose time is virtual, its threads take turns in it, its
connections are redis-py's over a link that delays, cuts and keeps silent, and its scripts are the very Lua, run by an
engine of a few hundred lines that is itself held to a real server. What is random comes from one seed, so that a
failure can be played again.

    python -m tests.sim --schedules 10000        # until one fails
    python -m tests.sim --seed 4711 --trace      # play one again
"""
