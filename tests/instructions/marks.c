/* What the program under callgrind tells it. */

#include <valgrind/callgrind.h>

void begin(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

/* End a part of the profile; what follows it is another. */
void end(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
}
