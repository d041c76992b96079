/* The reduction as reduction.py has it, and lackey's lines: for traces of many millions. */

#include <stdint.h>
#include <string.h>

#include "reduce.h"

enum {
    READ = 0x04, WRITE = 0x06, FETCH = 0x14, W = 0x02, ID = 0x10, SECOND = 0x80,
    SETS = 16, SLOTS = 2 * SETS, LONGEST = 7,
    KEPT = LONGEST * SLOTS, RUN = KEPT + LONGEST, SECOND_NEXT = RUN + LONGEST + 1,
    FETCH_TOKEN = SECOND_NEXT + 1,
    MOST_SITES = 65536, MOST_KEPT = 262144, MOST_TOKENS = 524288, INDEX = 131072
};

static uint32_t hash(uint64_t key) {
    return (uint32_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 47) & (INDEX - 1);
}

static uint64_t key_of(uint64_t gva, uint8_t kind) {
    return (gva >> 12) << 8 | kind;
}

void hvt_next(hvt_chunk *chunk, int all) {
    if (all) {
        memset(chunk->index, 0, sizeof chunk->index);
        chunk->sites = 0;
    }
    chunk->keeps = chunk->tokens_used = 0;
    chunk->fetches = chunk->writes = chunk->seconds = 0;
}

static uint32_t site_of(hvt_chunk *chunk, uint64_t gva, uint8_t kind) {
    uint64_t key = key_of(gva, kind);
    uint32_t at = hash(key);
    for (; chunk->index[at]; at = (at + 1) & (INDEX - 1)) {
        uint32_t site = chunk->index[at] - 1;
        if (key_of(chunk->site_gva[site], chunk->site_kind[site]) == key)
            return site;
    }
    chunk->site_gva[chunk->sites] = gva;
    chunk->site_kind[chunk->sites] = kind;
    chunk->index[at] = ++chunk->sites;
    return chunk->sites - 1;
}

int hvt_window(hvt_chunk *chunk, const uint64_t *gva, const uint8_t *kind, uint32_t count) {
    uint64_t recent[SLOTS];
    uint8_t written[SETS] = {0};
    uint8_t *out = chunk->tokens + chunk->tokens_used;
    uint32_t run = 0, current = SETS; /* no set has this number */
    if (count > MOST_SITES - chunk->sites || count > MOST_KEPT - chunk->keeps ||
        2 * (uint64_t)count > MOST_TOKENS - chunk->tokens_used)
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
        chunk->kept[chunk->keeps++] = (uint16_t)site_of(chunk, gva[i], k);
        *out++ = (uint8_t)(KEPT + run), run = 0;
    }
    if (run)
        *out++ = (uint8_t)(RUN + run);
    chunk->tokens_used = (uint32_t)(out - chunk->tokens);
    return 1;
}

enum { FINE, NO_FETCH, NO_DATA, TOO_MANY_KEPT, TOO_MANY, TOO_FEW };

/* A dropped access has the address of the kept one it repeats, which was found before: zero, which
 * is nobody's, if there was none. Seven fetches are written where fewer are made: what comes next
 * writes over the others. */
int hvt_expand(const uint8_t *tokens, uint32_t size, const hvt_kept *k, uint8_t mark,
               uint64_t *gva, uint8_t *kind, uint32_t room, uint32_t *where) {
    uint64_t recent[SLOTS] = {0}, fetched = 0;
    uint32_t made = 0, next = 0;
    uint8_t second = 0;
    for (uint32_t i = 0; i < size; i++) {
        uint32_t token = tokens[i], run;
        if (token < RUN)
            run = token < KEPT ? token / SLOTS : token - KEPT;
        else if (token < SECOND_NEXT)
            run = token - RUN;
        else if (token == SECOND_NEXT) {
            second = mark;
            continue;
        } else {
            run = 1;
            fetched = recent[SETS + token - FETCH_TOKEN];
        }
        if (run + (token < RUN) > room - made)
            return TOO_MANY;
        if ((run != 0) & !fetched)
            return NO_FETCH;
        for (uint32_t j = 0; j < LONGEST; j++)
            gva[made + j] = fetched, kind[made + j] = FETCH;
        kind[made] |= second;
        second = run ? 0 : second;
        made += run;
        if (token < KEPT) {
            uint64_t again = recent[token & (SETS - 1)];
            if (!again)
                return NO_DATA;
            gva[made] = again;
            kind[made++] = (token & SETS ? WRITE : READ) | second;
            second = 0;
        } else if (token < RUN) {
            if (next == k->count)
                return TOO_MANY_KEPT;
            uint16_t site = k->kept[next];
            uint64_t va = k->site_gva[site];
            uint32_t at = va >> 12 & (SETS - 1);
            if (k->site_kind[site] & ID)
                recent[SETS + at] = fetched = va;
            else
                recent[at] = va;
            if (next++ == k->first)
                *where = made;
            gva[made] = va;
            kind[made++] = k->site_kind[site] | second;
            second = 0;
        }
    }
    return next == k->count && made == room ? FINE : TOO_FEW;
}

int hvt_within(const uint64_t *gva, uint32_t count, uint64_t start, uint64_t end) {
    int within = 1;
    for (uint32_t i = 0; i < count; i++)
        within &= gva[i] - start < end - start;
    return within;
}

uint32_t hvt_most(const uint16_t *kept, uint32_t count) {
    uint16_t most = 0;
    for (uint32_t i = 0; i < count; i++)
        most = kept[i] > most ? kept[i] : most;
    return most;
}

static const uint64_t PAGE = 4096, USER_START = 4096, USER_END = (UINT64_C(1) << 47) - 4096;

/* By character: a hexadecimal digit's value plus one, 0 for all others. */
static const uint8_t DIGIT[256] = {
    ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8,
    ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

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
