/* What processes have done with one lock, call by call: each answer, and what Redis has afterwards, is to be as in server.pml.
 *
 * steps.h is made by traces.py. Between two calls, what ends by itself has ended in Redis: that is a step, too, and only
 * those are that the model knows. */

#define TOKENS 24

#include "server.pml"

#define LOCK_ENDS 10
#define BATON_IS_TAKEN 11
#define BATONS_END 12
#define FALLS_SILENT 13
#define DIES 14
#define QUEUE_ENDS 15
#define BEGIN 20
#define HAS_LOCK 21
#define HAS_BATONS 22
#define HAS_IN_QUEUE 23
#define IS_LOCK 31
#define ARE_BATONS 32
#define IS_IN_QUEUE 33

c_decl {
\#include "steps.h"
}

int at, steps;
byte what, who, number, said;  /* of the step at hand */
byte got;

active proctype play() {
    c_code { now.steps = STEPS; };
    do
    :: at == steps -> break
    :: at < steps ->
        d_step {
            c_code {
                now.what = step[now.at][0]; now.who = step[now.at][1];
                now.number = step[now.at][2]; now.said = step[now.at][3];
            };
            if
            :: what == TRY -> acquire(who, TRY, (number != 0), got)
            :: what == AGAIN -> acquire(who, AGAIN, (number != 0), got)
            :: what == PROBE -> acquire(who, PROBE, (number != 0), got)
            :: what == CLAIM -> acquire(who, CLAIM, false, got)
            :: what == RELEASE -> release(who, false, got)
            :: what == ABANDON -> release(who, true, got)

            :: what == LOCK_ENDS -> assert(lock != FREE); lock = FREE
            :: what == BATON_IS_TAKEN -> assert(baton > 0); baton--
            :: what == BATONS_END -> assert(baton > 0); baton = 0
            :: what == FALLS_SILENT -> assert(queue[who] == ALIVE); queue[who] = SILENT
            :: what == DIES -> assert(queue[who] == SILENT); queue[who] = DEAD
            :: what == QUEUE_ENDS -> look_at_queue(); assert(!alive_); empty_queue()

            :: what == BEGIN -> lock = FREE; baton = 0; empty_queue()
            :: what == HAS_LOCK -> lock = number
            :: what == HAS_BATONS -> baton = number
            :: what == HAS_IN_QUEUE -> queue[who] = number

            :: what == IS_LOCK -> assert(lock == number)
            :: what == ARE_BATONS -> assert(baton == number)
            :: what == IS_IN_QUEUE -> assert(queue[who] == number)
            fi;
            if
            :: what <= ABANDON && got != said ->
                c_code { printf("step %d: the model answers %d, Redis %d\n", now.at, now.got, now.said); };
                assert(false)
            :: else
            fi;
            got = NONE; what = 0; who = 0; number = 0; said = 0;
            at++
        }
    od
}
