/* How the lane's parts have a stop handled, and ask Python. It comes after lane.h and ask.h. */

#include <stdint.h>
#include <string.h>

/* Handle the last stop, of an access that stores *operand or, with NULL, what nobody knows, but for a page
   fault that the guest takes; return what it became. */
int32_t hv_stopped(hv_lane *l, const uint64_t *operand);

/* Do an INVLPG; return 0 if Python failed. */
int hv_invlpg(hv_lane *l, uint64_t gva);

/* Python takes over all that is noted before it answers, and gives anew what it may change. */
static inline int32_t ask(hv_lane *l, int32_t what, uint64_t value, int32_t has_value)
{
    return hv_ask(l->self, what, value, has_value);
}

static inline uint64_t peek(const hv_lane *l, uint64_t gpa)
{
    uint64_t value;
    memcpy(&value, l->ram + gpa, 8);
    return value;
}
