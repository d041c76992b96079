/* The one way back into Python: answers what became of it. cffi writes the function. */

#include <stdint.h>

int32_t hv_ask(void *self, int32_t what, uint64_t value, int32_t has_value);
