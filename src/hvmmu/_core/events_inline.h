/* Recording an event where somebody reads its kind, in one test where nobody does. */

#pragma once

#include "events.h"

static inline int hv_records(const hv_events *e, uint32_t kind)
{
    return e && (e->recorded >> kind & 1);
}

/* HV_EMIT(events, HV_EVENT_ZAP, .hpa = 0x1000, .level = 1) */
#define HV_EMIT(events, kind_, ...)                                            \
    do {                                                                       \
        if (hv_records(events, kind_))                                         \
            hv_record(events, &(const hv_event){.kind = kind_, __VA_ARGS__});  \
    } while (0)
