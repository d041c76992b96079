/* What of the C has run, as libFuzzer wants to know it: each block counts at a place of its own.
 *
 * Compilers call __sanitizer_cov_trace_pc in each block, with -fsanitize-coverage=trace-pc, which
 * libFuzzer no longer knows; it reads counters. Two blocks in one place are rare, and cost little.
 */

#include <stdint.h>

enum { PLACES = 1 << 16 };

/* libFuzzer's, where it is linked in. */
__attribute__((weak)) void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *end);
__attribute__((weak)) void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *end);

static uint8_t counters[PLACES];
static uintptr_t places[2 * PLACES];

__attribute__((constructor)) static void tell(void)
{
    if (!__sanitizer_cov_8bit_counters_init || !__sanitizer_cov_pcs_init)
        return;
    __sanitizer_cov_8bit_counters_init(counters, counters + PLACES);
    __sanitizer_cov_pcs_init(places, places + 2 * PLACES);
}

void __sanitizer_cov_trace_pc(void)
{
    uint64_t at = (uint64_t)(uintptr_t)__builtin_return_address(0);
    counters[(at * UINT64_C(0x9E3779B97F4A7C15)) >> 48]++;
}
