/* The reference lines of Valgrind's lackey. */
#pragma once

#include <stdint.h>

typedef struct {
    uint64_t read;       /* bytes of text */
    uint32_t lines;      /* superblocks included, which --trace-superblocks=yes adds */
    uint32_t references;
    uint32_t accesses;   /* a reference that straddles two pages is two */
} hvt_lackey;

/* Parse lines as long as they are references of a program or superblocks, at most limit references.
   gva (bytes) and kind have room for twice as many. second is set in the kind of a reference's
   second page. The line at text + read is the first one of another sort, or the first after the
   limit. */
hvt_lackey hvt_parse_lackey(const char *text, uint64_t size, uint32_t limit, uint8_t second,
                            uint64_t *gva, uint8_t *kind);
