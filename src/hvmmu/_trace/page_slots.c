/* Page slots as a reader fills them. */

#include <stdint.h>

#include "page_slots.h"

int hvt_all_within(const uint64_t *gva, uint32_t count, uint64_t start, uint64_t end)
{
    int within = 1;
    for (uint32_t i = 0; i < count; i++)
        within &= gva[i] - start < end - start;
    return within;
}

uint32_t hvt_count_listed(const uint16_t *slots, uint32_t count, const uint8_t *slot_kind)
{
    uint32_t listed = 0;
    for (uint32_t i = 0; i < count; i++)
        listed += slot_kind[slots[i]] != 0;
    return listed;
}

void hvt_list_slots(const uint16_t *slots, const uint64_t *gva, const uint8_t *kind, uint32_t count,
                    uint64_t *slot_gva, uint8_t *slot_kind)
{
    for (uint32_t i = 0; i < count; i++) {
        slot_gva[slots[i]] = gva[i];
        slot_kind[slots[i]] = kind[i];
    }
}
