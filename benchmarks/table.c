/* A hash table of words, filled at random: MEBIBYTES, a power of two, and the number of INSERTS. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    uint64_t slots = strtoull(argv[1], NULL, 10) << 17, inserts = strtoull(argv[2], NULL, 10);
    uint64_t *table = calloc(slots, sizeof *table);
    if (!table)
        return 1;
    uint64_t key = 88172645463325252u, found = 0;
    while (inserts--) {
        key ^= key << 13; /* xorshift: the same keys everywhere */
        key ^= key >> 7;
        key ^= key << 17;
        uint64_t at = key & (slots - 1);
        while (table[at] && table[at] != key)
            at = (at + 1) & (slots - 1);
        found += table[at] == key;
        table[at] = key;
    }
    printf("%llu\n", (unsigned long long)found);
    return 0;
}
