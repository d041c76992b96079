/* The reduction as reduction.py has it, and lackey's lines: for traces of many millions. */

#include <stdint.h>
#include <string.h>

#include "reduce.h"

enum {
    READ = 0x04, WRITE = 0x06, FETCH = 0x14, W = 0x02, ID = 0x10, SECOND = 0x80,
    SETS = 16, SLOTS = 2 * SETS, LONGEST = 7, WAYS = 4,
    KEPT = LONGEST * SLOTS, RUN = KEPT + LONGEST, SECOND_NEXT = RUN + LONGEST + 1,
    FETCH_TOKEN = SECOND_NEXT + 1,
    WINDOW = 4096, WINDOWS = 8, SITES = 65536, INDEX = 131072
};

/* The sites. */

static uint32_t hash(uint64_t key) {
    return (uint32_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 47) & (INDEX - 1);
}

void hvt_next(hvt_chunk *chunk) {
    chunk->chunk++;
    chunk->in_chunk = chunk->listed = 0;
    chunk->fetches = chunk->writes = chunk->seconds = 0;
}

/* Take a site out of the index; those behind it that would not be found any more move up. */
static void forget(hvt_chunk *chunk, uint32_t slot) {
    uint32_t hole = hash(chunk->keys[slot]);
    while (chunk->index[hole] != slot + 1)
        hole = (hole + 1) & (INDEX - 1);
    for (uint32_t at = (hole + 1) & (INDEX - 1); chunk->index[at]; at = (at + 1) & (INDEX - 1)) {
        uint32_t home = hash(chunk->keys[chunk->index[at] - 1]);
        if (((at - home) & (INDEX - 1)) >= ((at - hole) & (INDEX - 1))) {
            chunk->index[hole] = chunk->index[at];
            hole = at;
        }
    }
    chunk->index[hole] = 0;
}

static uint32_t slot_for(hvt_chunk *chunk) {
    if (chunk->sites < SITES)
        return chunk->sites++;
    while (chunk->used[chunk->hand] == chunk->chunk)
        chunk->hand = (chunk->hand + 1) % SITES;
    uint32_t slot = chunk->hand;
    chunk->hand = (chunk->hand + 1) % SITES;
    forget(chunk, slot);
    return slot;
}

static uint32_t list(hvt_chunk *chunk, uint64_t key, uint64_t gva, uint8_t kind) {
    uint32_t slot = slot_for(chunk), at = hash(key);
    while (chunk->index[at]) /* again: what stood here may have moved */
        at = (at + 1) & (INDEX - 1);
    chunk->index[at] = slot + 1;
    chunk->keys[slot] = key;
    chunk->used[slot] = chunk->chunk - 1;
    chunk->slots[chunk->listed] = (uint16_t)slot;
    chunk->gva[chunk->listed] = gva;
    chunk->kind[chunk->listed++] = kind;
    return slot;
}

static uint16_t site_of(hvt_chunk *chunk, uint64_t gva, uint8_t kind) {
    uint64_t key = (gva >> 12) << 8 | kind;
    uint32_t at = hash(key), slot;
    while (chunk->index[at] && chunk->keys[chunk->index[at] - 1] != key)
        at = (at + 1) & (INDEX - 1);
    slot = chunk->index[at] ? chunk->index[at] - 1 : list(chunk, key, gva, kind);
    chunk->in_chunk += chunk->used[slot] != chunk->chunk;
    chunk->used[slot] = chunk->chunk;
    return (uint16_t)slot;
}

/* The windows. */

int hvt_window(hvt_chunk *chunk, const uint64_t *gva, const uint8_t *kind, uint32_t count) {
    uint64_t recent[SLOTS];
    uint8_t written[SETS] = {0};
    uint32_t run = 0, current = SETS; /* no set has this number */
    uint32_t nears = chunk->nears, used = chunk->tokens_used;
    uint8_t *out = chunk->tokens + used;
    if (chunk->windows == WINDOWS || !count || count > WINDOW || SITES - chunk->in_chunk < count)
        return 0;
    memset(recent, 0xFF, sizeof recent);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t page = gva[i] >> 12;
        uint32_t at = page & (SETS - 1);
        uint8_t k = kind[i];
        if (k & SECOND) {
            if (run)
                *out++ = (uint8_t)(RUN + run), run = 0;
            *out++ = SECOND_NEXT;
            chunk->seconds++;
            k &= (uint8_t)~SECOND;
        }
        if (k & ID) {
            chunk->fetches++;
            if (recent[SETS + at] == page) {
                if (at != current) {
                    if (run)
                        *out++ = (uint8_t)(RUN + run), run = 0;
                    *out++ = (uint8_t)(FETCH_TOKEN + at);
                    current = at;
                } else if (++run == LONGEST) {
                    *out++ = RUN + LONGEST, run = 0;
                }
                continue;
            }
            recent[SETS + at] = page;
            current = at;
        } else {
            uint8_t write = k & W;
            chunk->writes += write != 0;
            if (recent[at] == page && (!write || written[at])) {
                *out++ = (uint8_t)(run * SLOTS + (write ? SETS : 0) + at), run = 0;
                continue;
            }
            written[at] = write || (recent[at] == page && written[at]);
            recent[at] = page;
        }
        chunk->near[chunk->nears++] = site_of(chunk, gva[i], k);
        *out++ = (uint8_t)(KEPT + run), run = 0;
    }
    if (run)
        *out++ = (uint8_t)(RUN + run);
    chunk->tokens_used = (uint32_t)(out - chunk->tokens);
    chunk->counts[2 * chunk->windows] = (uint16_t)(chunk->nears - nears);
    chunk->counts[2 * chunk->windows++ + 1] = (uint16_t)(chunk->tokens_used - used);
    return 1;
}

/* The span. */

/* A page that is one of the most recent ones of its set: when it was accessed last, and when by an
 * access that is kept. */
typedef struct {
    uint64_t number;
    uint32_t last, last_kept;
    int written;
} page;

typedef struct {
    page pages[WAYS]; /* the most recent first */
    uint32_t count;
} set;

/* Keep what it takes to have a set's pages in their order by kept accesses alone. */
static void keep_order(set *s, uint8_t *own) {
    uint32_t first = s->count ? s->count - 1 : 0;
    while (first && s->pages[first - 1].last_kept > s->pages[first].last_kept)
        first--;
    for (uint32_t n = 0; n < first; n++) {
        own[s->pages[n].last] = 1;
        s->pages[n].last_kept = s->pages[n].last;
    }
}

static void add(set *sets, uint64_t key, uint32_t at, uint8_t *own) {
    uint64_t number = key >> 8;
    set *s = sets + (key & ID ? SETS : 0) + (number & (SETS - 1));
    uint32_t way = 0;
    int write = !!(key & W);
    while (way < s->count && s->pages[way].number != number)
        way++;
    page made = {number, at, at, write};
    own[at] = way == s->count || write > s->pages[way].written;
    if (way == s->count) {
        keep_order(s, own);
    } else if (!own[at]) {
        made.last_kept = s->pages[way].last_kept;
        made.written = s->pages[way].written;
    }
    if (way == s->count && s->count < WAYS)
        s->count++;
    else if (way == s->count)
        way--;
    memmove(s->pages + 1, s->pages, way * sizeof *s->pages);
    s->pages[0] = made;
}

uint32_t hvt_end_span(hvt_chunk *chunk, uint16_t *kept, uint8_t *frame, uint32_t *size) {
    set sets[SLOTS] = {0};
    uint32_t keeps = 0, more = 0;
    for (uint32_t n = 0; n < chunk->nears; n++)
        add(sets, chunk->keys[chunk->near[n]], n, chunk->own);
    for (set *s = sets; s < sets + SLOTS; s++)
        keep_order(s, chunk->own);
    uint8_t *out = frame, *mask = frame + 4 * chunk->windows;
    for (uint32_t n = 0; n < 2 * chunk->windows; n++) {
        *out++ = (uint8_t)chunk->counts[n];
        *out++ = (uint8_t)(chunk->counts[n] >> 8);
    }
    out += (chunk->nears + 7) / 8;
    memset(mask, 0, (size_t)(out - mask));
    for (uint32_t n = 0; n < chunk->nears; n++) {
        if (chunk->own[n]) {
            kept[keeps++] = chunk->near[n];
            mask[n / 8] |= (uint8_t)(1 << n % 8);
        } else {
            out[2 * more] = (uint8_t)chunk->near[n];
            out[2 * more++ + 1] = (uint8_t)(chunk->near[n] >> 8);
        }
    }
    out += 2 * more;
    memcpy(out, chunk->tokens, chunk->tokens_used);
    *size = (uint32_t)(out - frame) + chunk->tokens_used;
    chunk->windows = chunk->nears = chunk->tokens_used = 0;
    return keeps;
}

/* Reading. */

int hvt_within(const uint64_t *gva, uint32_t count, uint64_t start, uint64_t end) {
    int within = 1;
    for (uint32_t i = 0; i < count; i++)
        within &= gva[i] - start < end - start;
    return within;
}

uint32_t hvt_listed(const uint16_t *sites, uint32_t count, const uint8_t *site_kind) {
    uint32_t listed = 0;
    for (uint32_t i = 0; i < count; i++)
        listed += site_kind[sites[i]] != 0;
    return listed;
}

void hvt_list(const uint16_t *slots, const uint64_t *gva, const uint8_t *kind, uint32_t count,
              uint64_t *site_gva, uint8_t *site_kind) {
    for (uint32_t i = 0; i < count; i++) {
        site_gva[slots[i]] = gva[i];
        site_kind[slots[i]] = kind[i];
    }
}

static const uint64_t PAGE = 4096, USER_START = 4096, USER_END = (UINT64_C(1) << 47) - 4096;

/* By character: a hexadecimal digit's value plus one, 0 for all others. */
static const uint8_t DIGIT[256] = {
    ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8,
    ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

/* Put the value of eight hexadecimal digits, all of them looked at together, in *value; return
 * whether that is what stands there. */
static int eight_digits(const char *text, uint64_t *value) {
    static const uint64_t EACH = UINT64_C(0x0101010101010101);
    uint64_t read = 0, letters, digits, tens;
    for (int i = 0; i < 8; i++) /* one load: the first character is the lowest byte */
        read |= (uint64_t)(uint8_t)text[i] << 8 * i;
    letters = read >> 6 & EACH;
    digits = (read & EACH * 0x0F) + letters * 9;
    tens = digits + EACH * 6 >> 4 & EACH; /* 1 for what is written as a letter */
    if ((digits & EACH * 0xF0) || digits + EACH * '0' + tens * ('a' - '0' - 10) != read)
        return 0;
    digits = (digits << 4 | digits >> 8) & UINT64_C(0x00FF00FF00FF00FF);
    digits = (digits << 8 | digits >> 16) & UINT64_C(0x0000FFFF0000FFFF);
    *value = (digits << 16 | digits >> 32) & UINT64_C(0xFFFFFFFF);
    return 1;
}

/* Return the kind of a line by its first three characters, or 0. */
static uint8_t kind_of(const char *line) {
    if (line[0] == 'I')
        return line[1] == ' ' && line[2] == ' ' ? FETCH : 0;
    if (line[0] != ' ' || line[2] != ' ')
        return 0;
    return line[1] == 'L' ? READ : line[1] == 'S' || line[1] == 'M' ? WRITE : 0;
}

hvt_parsed hvt_lackey(const char *text, uint64_t size, uint32_t limit, uint8_t second,
                      uint64_t *gva, uint8_t *kind) {
    hvt_parsed done = {0, 0, 0};
    const char *at = text, *end = text + size;
    while (done.lines < limit && end - at > 6) {
        uint8_t k = kind_of(at);
        const char *p = at + 3, *digits = p;
        uint64_t va = 0, bytes = 0;
        uint32_t d;
        if (!k)
            break;
        if (end - p >= 8 && eight_digits(p, &va))
            p += 8;
        while (p < end && p - digits < 16 && (d = DIGIT[(uint8_t)*p]))
            va = va << 4 | (d - 1), p++;
        if (p == digits || end - p < 3 || *p++ != ',')
            break;
        digits = p;
        while (p < end && p - digits < 4 && (unsigned char)(*p - '0') < 10)
            bytes = bytes * 10 + (uint64_t)(*p++ - '0');
        if (p == digits || p == end || *p != '\n')
            break;
        if (!bytes || bytes > PAGE || va < USER_START || va > USER_END || va + bytes > USER_END)
            break;
        gva[done.accesses] = va;
        kind[done.accesses++] = k;
        if (va % PAGE + bytes > PAGE) {
            gva[done.accesses] = (va | (PAGE - 1)) + 1;
            kind[done.accesses++] = k | second;
        }
        at = p + 1;
        done.lines++;
        done.read = (uint64_t)(at - text);
    }
    return done;
}
