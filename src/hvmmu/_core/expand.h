/* A span of a compact trace, and its accesses put back: _trace/tokens.py says how they are written.
 *
 * cffi reads this file too, so it has no directives.
 */

enum { HV_WINDOW = 4096, HV_SPAN_WINDOWS = 8, HV_SLACK = 7 };

/* A span as a file has it: how many accesses it has and how many windows, and those that its own
   filter keeps, each an index of all sites. */
typedef struct {
    const uint8_t *bytes;
    uint32_t size;
    uint32_t windows, accesses, count;
    const uint16_t *kept;
    const uint64_t *site_gva;
    const uint8_t *site_kind;
} hv_frame;

/* The same, with what the windows' own filters keep, and tokens for all. */
typedef struct {
    const uint16_t *near;
    uint32_t near_ends[9], token_ends[9]; /* windows + 1 of each are used, from 0 */
    const uint8_t *tokens;
    uint32_t windows, accesses;
    const uint64_t *site_gva;
    const uint8_t *site_kind;
} hv_span;

/* Read a frame; near has room for HV_SPAN_WINDOWS windows whose accesses are all kept. Return 0, or
   which of the messages in _trace/tokens.py says what is wrong. */
int32_t hv_open_span(const hv_frame *frame, hv_span *span, uint16_t *near);

/* Return which of near the nth is that the span's own filter keeps. */
uint32_t hv_near_of(const hv_frame *frame, uint32_t nth);

/* Put back the accesses of a window into arrays that hold HV_SLACK more than it has; *where is the
   place of near access first. mark is set in the kind of a second page. Return as hv_open_span. */
int32_t hv_expand(const hv_span *span, uint32_t window, uint32_t first, uint8_t mark, uint64_t *gva,
                  uint8_t *kind, uint32_t *where);

/* Return the window that a near access is in, and how many accesses a window has. */
uint32_t hv_window_of(const hv_span *span, uint32_t near);
uint32_t hv_window_size(const hv_span *span, uint32_t window);
