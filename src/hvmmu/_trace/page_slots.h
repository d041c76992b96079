/* Page slots as a reader fills them: a pair of page and kind in each. */
#pragma once

#include <stdint.h>

/* Return whether start <= gva < end for all addresses, in bytes. */
int hvt_all_within(const uint64_t *gva, uint32_t count, uint64_t start, uint64_t end);

/* Return how many of these slots are listed: the kind of such a slot is not 0. */
uint32_t hvt_count_listed(const uint16_t *slots, uint32_t count, const uint8_t *slot_kind);

/* List pairs, each in its slot. */
void hvt_list_slots(const uint16_t *slots, const uint64_t *gva, const uint8_t *kind, uint32_t count,
                    uint64_t *slot_gva, uint8_t *slot_kind);
