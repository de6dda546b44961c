/* The protocol of one lock: clients (policy/locks.py), a network that loses, delays and doubles, and processes that die.
 *
 * Must hold in every state: who believes that he holds the lock is the one whom Redis has. So of all at most one does.
 * With SERVED (nobody's wait ends, and nobody gives up): everybody has the lock in the end, or has died. */

#ifndef CLIENTS
#define CLIENTS 3
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 1
#endif
#ifndef CUTS
#define CUTS 1
#endif
#ifndef DOUBLES
#define DOUBLES 1
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef STOPS
#define STOPS 0
#endif
#ifndef LAPSES
#define LAPSES 1
#endif
#ifndef GIVE_UPS
#define GIVE_UPS 1
#endif
#define TOKENS (CLIENTS * ATTEMPTS)

#include "server.pml"

typedef Request {
    byte what;    /* NONE: nothing is under way */
    byte whose;   /* token */
    bool queues;
    bool undone   /* the caller has given up: behind it, on the same connection, it is abandoned */
}

Request asked[CLIENTS];  /* whose reply is waited for */
Request late[CLIENTS];   /* its connection was cut; it may still arrive, or not */
byte reply[CLIENTS];
byte blocked[CLIENTS];   /* the token that waits for a baton, on a connection of its own, with its claim behind */
bool woken[CLIENTS];
byte claimed[CLIENTS];   /* the reply to the claim */
byte ghost[CLIENTS];     /* the same, when its client has gone, and Redis has not seen it yet */
bool ghost_woken[CLIENTS];
byte believed[CLIENTS];  /* the token that he believes to hold the lock with; 0: none */
bool over[CLIENTS];
bool lapsed[TOKENS + 1]; /* its lease has ended: who hears of the grant now sees by his clock that it is too late */
byte started;
byte current[CLIENTS];    /* the token of his attempt; 0: he has none */
byte stops = STOPS, lapses = LAPSES, give_ups = GIVE_UPS, cuts = CUTS, doubles = DOUBLES, kills = KILLS;
bool came_late;
byte answer_;

#define OWNER(token) (((token) - 1) / ATTEMPTS)

inline forget(request) { request.what = NONE; request.whose = 0; request.queues = false; request.undone = false }

inline ask(me, kind, by, would_wait) {
    asked[me].what = kind; asked[me].whose = by; asked[me].queues = would_wait; asked[me].undone = false; reply[me] = NONE
}

/* The connection breaks: what was asked is lost, or comes late. */
inline cut(me) {
    cuts--;
    if
    :: asked[me].what != NONE && late[me].what == NONE ->
        late[me].what = asked[me].what; late[me].whose = asked[me].whose;
        late[me].queues = asked[me].queues; late[me].undone = asked[me].undone
    :: true
    fi;
    forget(asked[me]); reply[me] = NONE
}

/* The connection of a wait is dropped. */
inline leave(me) {
    if
    :: blocked[me] && !ghost[me] -> ghost[me] = blocked[me]; ghost_woken[me] = woken[me]
    :: else
    fi;
    blocked[me] = 0; woken[me] = false; claimed[me] = NONE
}

inline serve(request, answer) {
    if
    :: request.what == RELEASE -> release(request.whose, false, answer)
    :: request.what == ABANDON -> release(request.whose, true, answer)
    :: request.what == TRY -> acquire(request.whose, TRY, request.queues, answer); note(request.whose, answer)
    :: request.what == AGAIN -> acquire(request.whose, AGAIN, request.queues, answer); note(request.whose, answer)
    :: request.what == PROBE -> acquire(request.whose, PROBE, request.queues, answer); note(request.whose, answer)
    fi
}

inline note(token, answer) {
    if
    :: answer == GRANTED -> lapsed[token] = false
    :: else
    fi
}

/* Behind what was asked, on the same connection, its undo. */
inline ran(request) {
    if
    :: request.undone -> request.what = ABANDON; request.undone = false
    :: else -> forget(request)
    fi
}

#define KNOWN(n) (believed[n] == 0 || lock == believed[n])

#if CLIENTS == 2
#define ALL_KNOWN (KNOWN(0) && KNOWN(1))
#else
#define ALL_KNOWN (KNOWN(0) && KNOWN(1) && KNOWN(2))
#endif

/* What Redis does with what this client has sent, in whatever order it reads its connections. */
proctype server(byte n) {
    do
    :: atomic { asked[n].what != NONE && reply[n] == NONE ->
            d_step { serve(asked[n], answer_);
                if
                :: asked[n].undone && asked[n].what != ABANDON -> asked[n].what = ABANDON
                :: asked[n].undone && asked[n].what == ABANDON -> forget(asked[n])
                :: else -> reply[n] = answer_; forget(asked[n])
                fi;
                answer_ = NONE; assert(ALL_KNOWN) } }
    :: atomic { late[n].what != NONE ->
            d_step { came_late = true; serve(late[n], answer_); ran(late[n]); answer_ = NONE; assert(ALL_KNOWN) } }
    :: atomic { late[n].what != NONE -> d_step { forget(late[n]) } }  /* it is lost after all, or comes when it is valid no more */
    :: atomic { doubles > 0 && asked[n].what != NONE && reply[n] == NONE && !asked[n].undone ->
            d_step { doubles--; serve(asked[n], answer_); answer_ = NONE; assert(ALL_KNOWN) } }
    :: atomic { blocked[n] && !woken[n] && baton > 0 -> d_step { baton--; woken[n] = true } }
    :: atomic { blocked[n] && woken[n] ->
            d_step { acquire(blocked[n], CLAIM, false, answer_); note(blocked[n], answer_);
                claimed[n] = answer_; blocked[n] = 0; woken[n] = false; answer_ = NONE; assert(ALL_KNOWN) } }
    :: atomic { ghost[n] && !ghost_woken[n] && baton > 0 -> d_step { baton--; ghost_woken[n] = true } }
    :: atomic { ghost[n] && ghost_woken[n] ->
            d_step { acquire(ghost[n], CLAIM, false, answer_); note(ghost[n], answer_);
                /* Who has given up is granted nothing more, unless what he asked came late (docs/guarantees.md). Who was
                 * killed has not given up. */
                assert(answer_ != GRANTED || current[n] == ghost[n] || came_late || kills < KILLS);
                ghost[n] = 0; ghost_woken[n] = false; answer_ = NONE; assert(ALL_KNOWN) } }
    :: atomic { ghost[n] -> d_step { ghost[n] = 0; ghost_woken[n] = false } }  /* it sees that its client has gone */
    :: over[n] && asked[n].what == NONE && late[n].what == NONE && !ghost[n] && !blocked[n] -> break
    od
}

/* What ends by itself. */
proctype lease_ends() {
end:
    do
    :: d_step { lock != FREE && lock != HANDED && current[OWNER(lock)] != lock -> lock = FREE }
    :: d_step { lock != FREE && lock != HANDED && current[OWNER(lock)] == lock && believed[OWNER(lock)] != lock && lapses > 0 ->
            lapses--;
#ifndef DEADLINE_FROM_THE_REPLY
            lapsed[lock] = true;
#endif
            lock = FREE }
    od
}

proctype time_to_claim_ends() {
end:
    do
#ifdef NO_CLAIM_TIME
    :: false
#else
    :: d_step { lock == HANDED -> lock = FREE }
#endif
    od
}

proctype batons_end() {
end:
    do
    :: d_step { baton > 0 -> baton = 0 }
    od
}

/* A waiter who is not heard of any more. One who still waits counts as dead, too, where he has stood still for so long. */
proctype silence(byte token) {
end:
    do
    :: d_step { queue[token] == ALIVE && current[OWNER(token)] != token -> queue[token] = SILENT }
    :: d_step { queue[token] == ALIVE && current[OWNER(token)] == token && stops > 0 -> stops--; queue[token] = SILENT }
    :: d_step { queue[token] == SILENT -> queue[token] = DEAD }
    od
}

#define ANSWERED (asked[me].what == NONE && reply[me] != NONE)

inline take_it(me, token) { believed[me] = token; assert(ALL_KNOWN) }

inline end_of(me, token) { current[me] = 0; lapsed[token] = false; reply[me] = NONE; claimed[me] = NONE }

/* A client that is killed: what it has sent may still arrive. */
inline die(me) {
    kills--; believed[me] = 0; leave(me);
    if
    :: asked[me].what != NONE && late[me].what == NONE ->
        late[me].what = asked[me].what; late[me].whose = asked[me].whose; late[me].queues = asked[me].queues
    :: else
    fi;
    forget(asked[me])
}

proctype client(byte me) {
    byte token, attempt;
    bool waits, last;

    started == me;  /* they are all alike: who begins first is called the first */
next:
    atomic {
        if
        :: attempt == ATTEMPTS -> goto ended
        :: else -> attempt++; token = me * ATTEMPTS + attempt; current[me] = token
        fi;
        if
        :: waits = true
#ifndef SERVED
        :: waits = false
#endif
        fi;
        ask(me, TRY, token, waits);
        if
        :: attempt == 1 -> started++
        :: else
        fi
    };

hears:
    if
    :: atomic { reply[me] == GRANTED && !lapsed[token] -> reply[me] = NONE; take_it(me, token); goto holds }
    :: atomic { reply[me] == GRANTED && lapsed[token] -> ask(me, AGAIN, token, waits); goto hears }
    :: atomic { reply[me] == REFUSED -> ask(me, AGAIN, token, waits); goto hears }
    :: atomic { reply[me] == BUSY && waits -> reply[me] = NONE; blocked[me] = token; goto blocks }
    :: atomic { reply[me] == BUSY && !waits -> end_of(me, token); goto next }
    :: atomic { cuts > 0 -> cut(me); ask(me, AGAIN, token, waits); goto hears }
    :: atomic { give_ups > 0 -> give_ups--; goto gives_up }
    :: atomic { kills > 0 -> die(me); goto ends }
    fi;

blocks:
    if
    :: atomic { claimed[me] == GRANTED && !lapsed[token] -> claimed[me] = NONE; take_it(me, token); goto holds }
    :: atomic { claimed[me] == GRANTED && lapsed[token] -> claimed[me] = NONE; ask(me, AGAIN, token, waits); goto hears }
    :: atomic { claimed[me] == BUSY || claimed[me] == REFUSED -> claimed[me] = NONE; ask(me, AGAIN, token, waits); goto hears }
    :: atomic { cuts > 0 -> cuts--; leave(me); ask(me, AGAIN, token, waits); goto hears }
#ifndef SERVED
    :: atomic { blocked[me] && !woken[me] -> woken[me] = true; goto blocks }  /* the end of its BLPOP */
#endif
#ifndef NO_PROBE
    :: atomic { last = false; ask(me, PROBE, token, true) }
#ifndef SERVED
    :: atomic { last = true; ask(me, PROBE, token, false) }  /* his wait is over */
#endif
#endif
    :: atomic { give_ups > 0 -> give_ups--; goto gives_up }
    :: atomic { kills > 0 -> die(me); goto ends }
    fi;

    /* What his claim is answered meanwhile he sees later. */
    if
    :: atomic { reply[me] == GRANTED && !lapsed[token] -> reply[me] = NONE; leave(me); take_it(me, token); goto holds }
    :: atomic { reply[me] == GRANTED && lapsed[token] -> leave(me); ask(me, AGAIN, token, waits); goto hears }
    :: atomic { reply[me] == REFUSED -> leave(me); ask(me, AGAIN, token, waits); goto hears }
    :: atomic { reply[me] == BUSY && last -> last = false; leave(me); end_of(me, token); goto next }
    :: atomic { reply[me] == BUSY && !last -> reply[me] = NONE; goto blocks }
    :: atomic { cuts > 0 -> cut(me); last = false; goto blocks }
    :: atomic { give_ups > 0 -> give_ups--; last = false; goto gives_up }
    :: atomic { kills > 0 -> die(me); last = false; goto ends }
    fi;

holds:
    if
    :: atomic { kills > 0 -> die(me); goto ends }
    :: atomic { believed[me] = 0; ask(me, RELEASE, token, false) }
    :: atomic { believed[me] = 0 };  /* his clock says that it is over; he gives it back all the same */
        atomic { ask(me, RELEASE, token, false) }
    fi;
    do
    :: atomic { ANSWERED -> end_of(me, token); goto next }
    :: atomic { cuts > 0 -> cut(me); ask(me, RELEASE, token, false) }
    :: atomic { kills > 0 -> die(me); goto ends }
    od;

gives_up:
    /* Behind what is under way, its undo; and when that is over, once more on a good connection. */
    atomic { leave(me); reply[me] = NONE; asked[me].undone = asked[me].what != NONE };
    if
    :: atomic { asked[me].what == NONE -> ask(me, ABANDON, token, false) }
    :: atomic { cuts > 0 -> cut(me); ask(me, ABANDON, token, false) }
    :: atomic { kills > 0 -> die(me); goto ends }
    fi;
    do
    :: atomic { ANSWERED -> end_of(me, token); goto next }
    :: atomic { cuts > 0 -> cut(me); ask(me, ABANDON, token, false) }
    :: atomic { kills > 0 -> die(me); goto ends }
    od;

ends:
    atomic { end_of(me, token); waits = false; last = false };
ended:
    over[me] = true
}

#ifdef SERVED
#if CLIENTS == 2
#define ALL_OVER (over[0] && over[1])
#else
#define ALL_OVER (over[0] && over[1] && over[2])
#endif
ltl served { <> ALL_OVER }
#endif

init {
    byte n;
    atomic {
        run lease_ends(); run time_to_claim_ends(); run batons_end();
        for (n : 0 .. CLIENTS - 1) { run server(n); run client(n) };
        for (n : 1 .. TOKENS) { run silence(n) };
        n = 0
    }
}
