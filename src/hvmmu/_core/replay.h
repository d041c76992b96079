/* A window of a compact trace, run token by token. */

#include <stdint.h>

/* Where a replay is; replay.c's own. */
typedef struct {
    const hv_span *span;
    const uint8_t *token, *end;
    uint64_t recent[32]; /* by set, the address of its latest page; 0: there is none */
    uint8_t lacks[33];   /* what that page has not been granted since the last stop; 0 where no set is */
    uint32_t fetching;   /* the set last fetched from */
    uint32_t next, last, made, room;
    uint32_t left; /* fetches of the token that are still to be made */
    int32_t open;  /* there is more to make of it */
    int32_t wrong; /* a message of _trace/tokens.py */
} hv_replay;

/* Be where near access first of a window is to be made, with nothing sure. */
void hv_replay_from(hv_replay *r, const hv_span *span, uint32_t window, uint32_t first);

/* Go on to the next stop; return 0 there, 1 at the window's end or where something is wrong. */
int hv_replay_on(hv_replay *r, hv_engine *engine, uint64_t exit_filter, hv_stop *stop);

/* A stop has been handled: what was sure is not, and the access may be done. */
void hv_replay_stopped(hv_replay *r, int done);
