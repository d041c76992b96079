/* The event stream of a machine. cffi reads this file too, without its directives.
 *
 * hooked are the kinds that hooks of plugins read synchronously, recorded those that are kept in the
 * buffer for the other readers (events.py says which fields a kind has).
 */

#pragma once

#include "arch.h"

enum { HV_EVENTS = 1024 };

typedef struct {
    uint32_t kind, pfec, level, number; /* number: size, name of an exit, or route and cause */
    uint64_t gva, gpa, hpa, value;
} hv_event;

typedef struct {
    void *self;
    uint32_t hooked, recorded; /* a bit for each kind */
    uint32_t count;
    hv_event buffer[1024];
} hv_events;

/* Put an event into the buffer, and hand that over when it is full. */
void hv_record(hv_events *events, const hv_event *event);
