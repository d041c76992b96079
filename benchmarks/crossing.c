/* Words that lie across two pages, read and written at random: PAGES, and the number of ACCESSES. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    uint64_t pages = strtoull(argv[1], NULL, 10), accesses = strtoull(argv[2], NULL, 10);
    char *memory = aligned_alloc(4096, (pages + 1) * 4096);
    if (!memory)
        return 1;
    uint64_t key = 88172645463325252u, sum = 0;
    while (accesses--) {
        key ^= key << 13; /* xorshift: the same pages everywhere */
        key ^= key >> 7;
        key ^= key << 17;
        /* half of them across the end of the page, half behind it */
        volatile uint64_t *word = (void *)(memory + key % pages * 4096 + 4092 + (key >> 60 & 1) * 64);
        if (key >> 61 & 1)
            sum += *word;
        else
            *word = sum;
    }
    printf("%llu\n", (unsigned long long)sum);
    return 0;
}
