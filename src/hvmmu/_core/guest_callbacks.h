/* The way from the guest's kernel into Python. cffi reads this and writes it. */

#include <stdint.h>

/* Do what C asks for; return 0 if an exception was raised. */
int32_t hv_guest_call(void *self, int32_t what);
