/* What Python and C share of the reduction. Also read by cffi: no preprocessor here. */

typedef struct {
    uint64_t site_gva[65536];
    uint8_t site_kind[65536];
    uint16_t kept[262144];
    uint8_t tokens[524288];
    uint32_t sites, keeps, tokens_used;
    uint32_t fetches, writes, seconds;
    uint32_t index[131072]; /* hash of page and kind to site + 1 */
} hvt_chunk;

/* Begin another chunk; with *all*, forget the sites as well. */
void hvt_next(hvt_chunk *chunk, int all);

/* Add a window of accesses; 0 if the chunk has no room for it. */
int hvt_window(hvt_chunk *chunk, const uint64_t *gva, const uint8_t *kind, uint32_t count);

/* The accesses that a window keeps: each an index of all 65,536 sites. */
typedef struct {
    const uint16_t *kept;
    uint32_t count;
    uint32_t first; /* the one whose place is asked for */
    const uint64_t *site_gva;
    const uint8_t *site_kind;
} hvt_kept;

/* Put back the accesses of a window, room of them, into arrays that hold seven more; *where is the
   place of the first. mark is set in the kind of a second page. Return 0, or which of the messages
   in compiled.py says why not. */
int hvt_expand(const uint8_t *tokens, uint32_t size, const hvt_kept *kept, uint8_t mark,
               uint64_t *gva, uint8_t *kind, uint32_t room, uint32_t *where);

/* Return whether all addresses are in start..end. */
int hvt_within(const uint64_t *gva, uint32_t count, uint64_t start, uint64_t end);

/* Return the highest of count numbers, 0 if there are none. */
uint32_t hvt_most(const uint16_t *kept, uint32_t count);

typedef struct {
    uint64_t read;     /* bytes of text */
    uint32_t lines;    /* which is references, as every line taken is one */
    uint32_t accesses; /* a reference that crosses pages is two */
} hvt_parsed;

/* Read lackey's lines as far as they are plain references, *limit* of them at most, into arrays of
   room for twice as many. Whatever else a line may be is left to Python to judge. */
hvt_parsed hvt_lackey(const char *text, uint64_t size, uint32_t limit, uint8_t second,
                      uint64_t *gva, uint8_t *kind);
