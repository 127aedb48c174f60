/* The loops of the probe, in C11 atomics: what one CPU pays for an atomic, and two for handing a lock over. */
#ifndef FASTMLOCK_HANDOVER_H
#define FASTMLOCK_HANDOVER_H
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

typedef struct {
    _Alignas(128) _Atomic int64_t word;
    _Alignas(128) _Atomic int32_t ready;
    _Alignas(128) char end;
} handover_line;

/* as many as `kernel.py` has pages: a row of struct pages */
#define HANDOVER_ROW 768

typedef struct {
    _Alignas(128) _Atomic int64_t turn;
    struct { _Alignas(64) _Atomic int64_t word; } row[HANDOVER_ROW];
} handover_row;

static inline int64_t handover_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ns for `rounds` pairs of taking a free lock by compare-exchange and giving it back by a store */
static int64_t handover_alone(handover_line *line, int64_t rounds)
{
    int64_t begin = handover_now_ns();
    for (int64_t i = 0; i < rounds; i++) {
        int64_t expected = 0;
        atomic_compare_exchange_strong_explicit(&line->word, &expected, 1, memory_order_acquire, memory_order_relaxed);
        atomic_store_explicit(&line->word, 0, memory_order_release);
    }
    return handover_now_ns() - begin;
}

/* Two sides take turns by compare-exchange: side 0 turns even words odd, side 1 odd ones even. ns for `rounds` turns
   of this side, or -1 if the other has not answered within `limit_ns`. */
static int64_t handover_turns(handover_line *line, int side, int64_t rounds, int64_t limit_ns)
{
    int64_t begin, stop;
    atomic_fetch_add(&line->ready, 1);
    stop = handover_now_ns() + limit_ns;
    while (atomic_load(&line->ready) < 2)
        if (handover_now_ns() > stop)
            return -1;
    begin = handover_now_ns();
    for (int64_t i = 0; i < rounds; i++) {
        int64_t expected = 2 * i + side;
        uint32_t tries = 0;
        while (!atomic_compare_exchange_weak_explicit(&line->word, &expected, 2 * i + side + 1, memory_order_acq_rel,
                                                      memory_order_relaxed)) {
            expected = 2 * i + side;
            if ((++tries & 0xffff) == 0 && handover_now_ns() > stop)
                return -1;
        }
    }
    return handover_now_ns() - begin;
}

/* Two sides go over a row of lines by turns, one atomic on each, so that each side fetches all of them from the other.
   The shortest time that a row took this side, ns, or -1 if the other has not answered within `limit_ns`. */
static int64_t handover_rows(handover_row *lines, int side, int64_t rounds, int64_t limit_ns)
{
    int64_t best = INT64_MAX, stop = handover_now_ns() + limit_ns;
    for (int64_t i = 0; i < rounds; i++) {
        int64_t begin, took;
        while (atomic_load(&lines->turn) != 2 * i + side)
            if (handover_now_ns() > stop)
                return -1;
        begin = handover_now_ns();
        for (int j = 0; j < HANDOVER_ROW; j++)
            atomic_fetch_add(&lines->row[j].word, 1);
        took = handover_now_ns() - begin;
        if (took < best)
            best = took;
        atomic_store(&lines->turn, 2 * i + side + 1);
    }
    return best;
}

/* The same by one CPU whose lines they are. */
static int64_t handover_row_alone(handover_row *lines, int64_t rounds)
{
    int64_t best = INT64_MAX;
    for (int64_t i = 0; i < rounds; i++) {
        int64_t begin = handover_now_ns(), took;
        for (int j = 0; j < HANDOVER_ROW; j++)
            atomic_fetch_add(&lines->row[j].word, 1);
        took = handover_now_ns() - begin;
        if (took < best)
            best = took;
    }
    return best;
}
#endif
