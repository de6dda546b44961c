/* What Redis has of one lock, and what the scripts do to it: acquire.lua (with acquire_free.lua) and release.lua.
 *
 * Included by lock.pml, which adds clients and a network, and by traces.pml, which plays what processes have done.
 * Time is not counted: what ends by itself may end in any moment (env steps), a lease only when its holder no longer
 * believes in it, for a holder's clock says so first (docs/internals.md, `caution`). */

#define FREE 0
#define HANDED 200
#define NONE 0

/* How long a waiter counts as alive: not in the queue, alive, not heard of of late, dead for longer than a claim may come late. */
#define OUT 0
#define ALIVE 1
#define SILENT 2
#define DEAD 3

/* What is asked. */
#define TRY 1
#define AGAIN 2
#define PROBE 3
#define CLAIM 4
#define RELEASE 5
#define ABANDON 6

/* What is answered. */
#define GRANTED 1
#define BUSY 2
#define REFUSED 3
#define TOO_LATE 4
#define DONE 5
#define NOT_HELD 6

#ifdef CLAIM_WITHOUT_A_PLACE
#define NEEDS_A_PLACE(mode) ((mode) == PROBE)
#else
#define NEEDS_A_PLACE(mode) ((mode) == CLAIM || (mode) == PROBE)
#endif

byte lock = FREE;
byte baton = 0;
byte queue[TOKENS + 1]; /* by token; 0 is nobody's */

byte i_;
bool alive_, anybody_, queued_, handed_;

inline look_at_queue() {
    alive_ = false; anybody_ = false;
    for (i_ : 1 .. TOKENS) {
        alive_ = alive_ || queue[i_] == ALIVE;
        anybody_ = anybody_ || queue[i_] != OUT
    }
    i_ = 0
}

inline empty_queue() {
    for (i_ : 1 .. TOKENS) { queue[i_] = OUT }
    i_ = 0
}

inline lay_baton() {
    if
    :: baton < 2 -> baton++
    :: else
    fi
}

inline pass_on() {
    if
    :: lock == HANDED ->
        look_at_queue();
        if
        :: !alive_ -> lock = FREE; empty_queue(); baton = 0
        :: alive_ && baton == 0 -> lay_baton()
        :: else
        fi
    :: else
    fi
}

/* acquire.lua. `waits`: would the caller queue? A claim never does. */
inline acquire(token, mode, waits, answer) {
    queued_ = false; handed_ = false;
    if
#ifdef TAKEN_THOUGH_IT_IS_HELD
    :: mode == TRY -> lock = token; answer = GRANTED
#else
    :: mode == TRY && lock == FREE -> lock = token; answer = GRANTED
#endif
    :: else ->
        if
        :: mode != TRY ->
            queued_ = queue[token] != OUT && (mode != CLAIM || queue[token] != DEAD);
            if
            :: mode == CLAIM -> queue[token] = OUT
            :: else
            fi
        :: else
        fi;
        if
        :: NEEDS_A_PLACE(mode) && !queued_ && lock != token -> pass_on(); answer = REFUSED
        :: else ->
            handed_ = lock == HANDED && ((queued_ && mode != PROBE) || (!waits && baton > 0) || !NEEDS_A_PLACE(CLAIM));
            if
            :: lock != FREE && lock != token && !handed_ ->
                if
                :: waits -> queue[token] = ALIVE
                :: !waits && mode != CLAIM -> queue[token] = OUT
                :: mode == CLAIM && lock != HANDED -> baton = 0
                :: else
                fi;
                answer = BUSY
            :: else ->
                lock = token;
                if
                :: handed_ && mode != CLAIM -> baton = 0
                :: else
                fi;
                if
                :: queued_ && mode != CLAIM -> queue[token] = OUT
                :: else
                fi;
                answer = GRANTED
            fi
        fi
    fi;
    queued_ = false; handed_ = false; alive_ = false; anybody_ = false
}

/* release.lua, with release_unawaited.lua. */
inline release(token, abandoned, answer) {
    look_at_queue();
    if
    :: lock == token && !anybody_ -> lock = FREE; answer = DONE
    :: else ->
        if
        :: abandoned -> queue[token] = OUT
        :: else
        fi;
        look_at_queue();
        if
#ifdef RELEASE_FREES_WHATEVER_IS_THERE
        :: lock == FREE || lock == HANDED ->
#else
        :: lock != token ->
#endif
            if
            :: abandoned -> pass_on()
            :: else
            fi;
            answer = NOT_HELD
        :: else ->
            if
#ifdef NOBODY_LOOKS_WHETHER_OTHERS_WAIT
            :: false
#else
            :: alive_ -> lock = HANDED; lay_baton()
#endif
            :: else -> lock = FREE; empty_queue()
            fi;
            answer = DONE
        fi
    fi;
    alive_ = false; anybody_ = false
}
