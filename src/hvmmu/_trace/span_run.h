/* A span of a reduced trace, run from a stop on. It comes after vcpu.h. */
#pragma once

#include <stdint.h>

#include "expand.h"

/* Room for a span while it is run. */
typedef struct {
    uint16_t window_kept[HVT_SPAN];
    uint64_t gva[HVT_WINDOW + HVT_LONGEST]; /* of a window, in bytes */
    uint8_t kind[HVT_WINDOW + HVT_LONGEST];
} hvt_run_room;

/* Handle the vCPU's last stop, which was at the nth access that a span's filter keeps, and run the rest
   of the span. Return 0 if that failed in Python, or with *damage the number of a message in
   _trace/grammar.py. */
int32_t hvt_run_tail(hv_vcpu *vcpu, const hvt_packed_span *packed, uint32_t nth, hvt_run_room *room,
                     int32_t *damage);
