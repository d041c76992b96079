/* How the lane's loops have a stop handled. */

#include <stdint.h>

/* Handle the last stop, of an access that stores *operand or, with NULL, what nobody knows; return what
   it became. */
int32_t hv_stopped(hv_lane *l, const uint64_t *operand);
