/* The buffer of the event stream. */

#include "events.h"
#include "callbacks.h"

void hv_record(hv_events *e, const hv_event *event)
{
    e->buffer[e->count++] = *event;
    if (e->count == HV_EVENTS)
        hv_call_events(e->self);
}
