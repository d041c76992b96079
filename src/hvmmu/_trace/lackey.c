/* The reference lines of Valgrind's lackey: a kind, a hexadecimal address, a decimal size in bytes.
 *
 *     I  0040126f,3
 *      S 1ffefffe78,8
 *
 * A modify (M) reads and writes one address in one instruction. x86 translates it once, as a write:
 * SDM "Page-Fault Exceptions", bit W/R.
 */

#include <stddef.h>
#include <stdint.h>

#include "grammar.h"
#include "lackey.h"

#define PAGE ((uint64_t)1 << HVT_PAGE_SHIFT)
#define LEAST_LINE 5 /* bytes: SB, a blank, a digit and a line end */

/* By character: a hexadecimal digit's value plus one, 0 for all others. */
static const uint8_t DIGIT[256] = {
    ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8,
    ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

/* Read eight hexadecimal digits at once into *value; return 0 if they are none. */
static int eight_digits(const char *text, uint64_t *value)
{
    static const uint64_t EACH = UINT64_C(0x0101010101010101);
    uint64_t read = 0, letters, digits, tens;
    for (int i = 0; i < 8; i++) /* one load: the first character is the lowest byte */
        read |= (uint64_t)(uint8_t)text[i] << 8 * i;
    letters = read >> 6 & EACH;
    digits = (read & EACH * 0x0F) + letters * 9;
    tens = (digits + EACH * 6) >> 4 & EACH; /* 1 for a digit that is a letter */
    if ((digits & EACH * 0xF0) || digits + EACH * '0' + tens * ('a' - '0' - 10) != read)
        return 0;
    digits = (digits << 4 | digits >> 8) & UINT64_C(0x00FF00FF00FF00FF);
    digits = (digits << 8 | digits >> 16) & UINT64_C(0x0000FFFF0000FFFF);
    *value = (digits << 16 | digits >> 32) & UINT64_C(0xFFFFFFFF);
    return 1;
}

/* Return the kind that a line's first three characters say, 0 for none. */
static uint8_t kind_of(const char *line)
{
    if (line[0] == 'I')
        return line[1] == ' ' && line[2] == ' ' ? HVT_USER_FETCH : 0;
    if (line[0] != ' ' || line[2] != ' ')
        return 0;
    return line[1] == 'L'                     ? HVT_USER_READ
           : line[1] == 'S' || line[1] == 'M' ? HVT_USER_WRITE
                                              : 0;
}

/* Read an address; return its end, or NULL for no digits. More than 16 digits have no end here. */
static inline const char *read_address(const char *p, const char *end, uint64_t *gva)
{
    const char *start = p;
    uint64_t va = 0;
    uint8_t d;
    if (end - p >= 8 && eight_digits(p, &va))
        p += 8;
    for (; p < end && p - start < 16 && (d = DIGIT[(uint8_t)*p]); p++)
        va = va << 4 | (d - 1u);
    *gva = va;
    return p == start ? NULL : p;
}

/* Read a size in bytes of at most four digits in the same way. */
static inline const char *read_size(const char *p, const char *end, uint64_t *size)
{
    const char *start = p;
    uint8_t d;
    for (*size = 0; p < end && p - start < 4 && (d = (uint8_t)(*p - '0')) < 10; p++)
        *size = *size * 10 + d;
    return p == start ? NULL : p;
}

static inline int is_users(uint64_t va, uint64_t size)
{
    return size - 1 < PAGE && va - HVT_USER_START <= HVT_USER_END - HVT_USER_START - size;
}

static inline int is_superblock(const char *line)
{
    return line[0] == 'S' && line[1] == 'B' && line[2] == ' ';
}

hvt_lackey hvt_parse_lackey(const char *text, uint64_t size, uint32_t limit, uint8_t second,
                            uint64_t *gva, uint8_t *kind)
{
    const char *at = text, *end = text + size;
    uint32_t lines = 0, references = 0, accesses = 0;
    while (references < limit && end - at >= LEAST_LINE) {
        uint8_t k = kind_of(at);
        uint64_t va = 0, bytes = 0;
        const char *p = k || is_superblock(at) ? read_address(at + 3, end, &va) : NULL;
        if (k && p)
            p = p < end && *p == ',' ? read_size(p + 1, end, &bytes) : NULL;
        if (!p || p == end || (k && !is_users(va, bytes)))
            break;
        if (*p == '\r')
            p++;
        if (p == end || *p != '\n')
            break;
        if (k) {
            gva[accesses] = va;
            kind[accesses++] = k;
            references++;
            if (va % PAGE + bytes > PAGE) {
                gva[accesses] = (va | (PAGE - 1)) + 1;
                kind[accesses++] = k | second;
            }
        }
        at = p + 1;
        lines++;
    }
    return (hvt_lackey){(uint64_t)(at - text), lines, references, accesses};
}
