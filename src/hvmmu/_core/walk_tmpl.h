/* The descent through paging structures: written once, compiled for each format of entries. It has no
 * include guard, as each instance includes it. SDM "Hierarchical Paging Structures: An Overview".
 *
 * Before it is included:
 *   WALK(name)      an instance's name for one of the functions
 *   ENTRY_BYTES     size of an entry, 4 or 8; a table fills a page
 *   FORMATS         the type that describes the entries
 *   WALK(is_link)   (formats, entry, level): whether the entry leads to another table
 *   WALK(has_rights) (formats, entry, level, is_link): whether the entry narrows what the path
 *                   allows
 *   WALK(access)    (formats, bits): what a path allows whose entries have these bits
 */

/* Return the lowest bit of an address that is translated at a level. */
static inline uint32_t WALK(shift)(uint32_t level)
{
    return 12 + (ENTRY_BYTES == 8 ? 9 : 10) * (level - 1);
}

/* Read the entry of a table that translates va at a level, which goes to the path; return whether it leads
 * to another table. */
static ALWAYS_INLINE int WALK(read)(const hv_space *space, const FORMATS *f, uint64_t va,
                                    uint32_t level, uint64_t table, hv_step *step, last_entry *out)
{
    const uint64_t index = va >> WALK(shift)(level) & (4096 / ENTRY_BYTES - 1);
    const uint64_t where = table + index * ENTRY_BYTES;
    const uint64_t entry = load_entry(space, where, ENTRY_BYTES);
    const int is_link = WALK(is_link)(f, entry, level);
    if (WALK(has_rights)(f, entry, level, is_link)) {
        out->bits.all &= entry;
        out->bits.any |= entry;
    }
    out->level = level;
    out->entry = entry;
    *step = (hv_step){where, entry, WALK(access)(f, out->bits)};
    return is_link;
}

/* Read entries from a table of this level down; return the last one. bits is of the entries above. Each level
 * is compiled apart, with its shift a constant. */
static ALWAYS_INLINE last_entry WALK(descend)(const hv_space *space, const FORMATS *f, uint64_t va,
                                              uint32_t level, uint64_t table, path_bits bits,
                                              hv_step *path)
{
    last_entry last = {.entry = table, .bits = bits};
    switch (level) {
    case 5:
        if (!WALK(read)(space, f, va, 5, table, path++, &last))
            return last;
        table = last.entry & PTE_ADDRESS;
        __attribute__((fallthrough));
    case 4:
        if (!WALK(read)(space, f, va, 4, table, path++, &last))
            return last;
        table = last.entry & PTE_ADDRESS;
        __attribute__((fallthrough));
    case 3:
        if (!WALK(read)(space, f, va, 3, table, path++, &last))
            return last;
        table = last.entry & PTE_ADDRESS;
        __attribute__((fallthrough));
    case 2:
        if (!WALK(read)(space, f, va, 2, table, path++, &last))
            return last;
        table = last.entry & PTE_ADDRESS;
        __attribute__((fallthrough));
    default:
        WALK(read)(space, f, va, 1, table, path, &last);
        return last;
    }
}

/* Set bits in the entries of a path, others in its last one too; store what changes, from the root down.
 * SDM "Accessed and Dirty Flags". */
static ALWAYS_INLINE void WALK(mark)(const hv_space *space, const hv_step *path, uint32_t refs,
                                     uint64_t accessed, uint64_t dirty)
{
    for (uint32_t i = 0; i < refs; i++) {
        uint64_t entry = path[i].entry | accessed | (i + 1 == refs ? dirty : 0);
        if (entry != path[i].entry)
            store(space, path[i].pa, entry, ENTRY_BYTES);
    }
}

#undef WALK
#undef ENTRY_BYTES
#undef FORMATS
