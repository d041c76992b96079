/* What Python and C share of the reduction. Also read by cffi: no preprocessor here. */

/* A chunk in the making, and the span in it; reduction.py says what they are. */
typedef struct {
    /* The sites, by slot, and where each is found by its hash: slot + 1. */
    uint64_t keys[65536];
    uint32_t used[65536]; /* the number of the chunk that used it last */
    uint32_t index[131072];
    uint32_t sites, hand, chunk, in_chunk;
    /* What the chunk lists. */
    uint16_t slots[65536];
    uint64_t gva[65536];
    uint8_t kind[65536];
    uint32_t listed;
    uint32_t fetches, writes, seconds;
    /* The span: windows of near accesses and tokens, then what is kept of them. */
    uint16_t counts[16];
    uint16_t near[32768];
    uint8_t own[32768];
    uint8_t tokens[65536];
    uint32_t windows, nears, tokens_used;
} hvt_chunk;

/* Begin another chunk. */
void hvt_next(hvt_chunk *chunk);

/* Add a window of accesses to the span; 0 if there is no room for it. */
int hvt_window(hvt_chunk *chunk, const uint64_t *gva, const uint8_t *kind, uint32_t count);

/* End the span: fill kept, and frame, which have room for all there may be; return how many are kept,
   and the frame's size in *size. */
uint32_t hvt_end_span(hvt_chunk *chunk, uint16_t *kept, uint8_t *frame, uint32_t *size);

/* Return whether all addresses are in start..end. */
int hvt_within(const uint64_t *gva, uint32_t count, uint64_t start, uint64_t end);

/* Return how many of these sites have a kind, as those have that are listed. */
uint32_t hvt_listed(const uint16_t *sites, uint32_t count, const uint8_t *site_kind);

/* List sites, each in its slot. */
void hvt_list(const uint16_t *slots, const uint64_t *gva, const uint8_t *kind, uint32_t count,
              uint64_t *site_gva, uint8_t *site_kind);

typedef struct {
    uint64_t read;     /* bytes of text */
    uint32_t lines;    /* which is references, as every line taken is one */
    uint32_t accesses; /* a reference that crosses pages is two */
} hvt_parsed;

/* Read lackey's lines as far as they are plain references, *limit* of them at most, into arrays of
   room for twice as many. Whatever else a line may be is left to Python to judge. */
hvt_parsed hvt_lackey(const char *text, uint64_t size, uint32_t limit, uint8_t second,
                      uint64_t *gva, uint8_t *kind);
