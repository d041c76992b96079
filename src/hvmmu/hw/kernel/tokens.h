/* A span of a compact trace, and its accesses put back: guest/tokens.py says how they are written.
 *
 * cffi reads this file too, so it has no directives.
 */

enum { HV_WINDOW = 4096, HV_SPAN_WINDOWS = 8, HV_SLACK = 7 };

/* What the windows' own filters keep of a span, each an index of all sites, and tokens for all. */
typedef struct {
    const uint16_t *near;
    const uint32_t *near_ends, *token_ends; /* windows + 1 of each, from 0 */
    const uint8_t *tokens;
    const uint64_t *site_gva;
    const uint8_t *site_kind;
    uint32_t windows, accesses;
} hv_span;

/* Read a frame of size bytes, of a span whose own filter keeps count accesses: fill the ends, and near,
   which has room for all there may be; *tokens is where the tokens start. Return 0, or which of the
   messages in guest/tokens.py says why not. */
int32_t hv_open_span(const uint8_t *frame, uint32_t size, uint32_t windows, const uint16_t *kept,
                     uint32_t count, const uint8_t *site_kind, uint32_t *near_ends,
                     uint32_t *token_ends, uint16_t *near, uint32_t *tokens);

/* Return which of near the nth is that the span's own filter keeps. */
uint32_t hv_near_of(const uint8_t *frame, uint32_t windows, uint32_t nth);

/* Put back the accesses of a window into arrays that hold HV_SLACK more than it has; *where is the
   place of near access first. mark is set in the kind of a second page. Return as hv_open_span. */
int32_t hv_expand(const hv_span *span, uint32_t window, uint32_t first, uint8_t mark, uint64_t *gva,
                  uint8_t *kind, uint32_t *where);

/* Return the window that a near access is in. */
uint32_t hv_window_of(const hv_span *span, uint32_t near);
