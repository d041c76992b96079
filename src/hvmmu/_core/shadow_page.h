/* Shadow pages: the tables that hardware walks for a guest, and the books about them.
 *
 * Addresses and sizes are in bytes; a gfn is a guest frame number, an index the place of a guest frame
 * in the books. cffi reads this file too, without its directives.
 */

#pragma once

#include "arch.h"
#include "events.h"

/* Failures; nothing was done, or all of it can be done again. */
enum {
    HV_NO_HOST_MEMORY = -1,
    HV_NO_FRAMES = -2,     /* no host frame is left for shadow tables */
    HV_NO_ROOM = -3,       /* more shadow pages are in use as roots than params allow */
    HV_NO_PAGING = -4,     /* a page fault exited before the guest turned paging on */
    HV_NO_ROOT = -5,       /* a page fault exited from a root that was zapped */
    HV_NOT_CANONICAL = -6  /* a page fault exited whose address no walk begins with */
};

/* Guest-physical [gpa, gpa + size) lies at host-physical hpa, page by page. */
typedef struct {
    uint64_t gpa, size, hpa;
} hv_memslot;

/* A shadow page; it is named by its host frame number, and 0 names none. */
typedef struct {
    uint64_t gfn, serial;    /* serial 0: not in use */
    uint64_t last_written;   /* sptep that the last emulated store built, 0 for none */
    uint32_t role;           /* arch/role.py has its layout */
    uint32_t write_flooding; /* stores to the guest's table since the shadow was last of use */
    uint32_t older, newer;   /* pages by age */
    uint32_t next;           /* of the same index, oldest first */
    uint32_t parents;        /* the first entry that links here */
    struct hv_node *nodes;   /* by entry; they stay with the frame */
} hv_page;

typedef struct {
    uint8_t *memory;         /* host-physical 0 */
    uint64_t memory_size;
    hv_memslot *slots;
    uint32_t slot_count;
    uint64_t trap, notrap;   /* the values of an entry that maps nothing */
    void (*write)(void *writer, uint64_t hpa, uint64_t spte); /* stores an entry that hardware may be
                                                                 using; NULL: memory is written */
    void *writer;
    hv_events *events;       /* of the machine; NULL: nobody reads any */
    uint64_t serial, zapped, count;
    uint64_t flushes;        /* changes so far after which no TLB may hold what it held */
    uint32_t oldest, newest;
    uint32_t next_frame, end_frame;
    uint32_t free_count;
    uint32_t *free;
    hv_page *pages;          /* by host frame */

    /* By index: the host frame behind a guest frame, less first_frame; all gfns in no memslot share the
     * index that is number frames. */
    uint64_t first_frame, frames;
    uint32_t *shadows;       /* the oldest shadow page of a guest frame, direct ones too */
    uint32_t *leaves;        /* the first entry that maps the frame */
    uint32_t *regions;       /* by index / 512: how many of the frames are shadowed as tables */
} hv_pages;

/* Host frames below end_frame, but for frame 0, are the shadow's. NULL where there is no memory. */
hv_pages *hv_pages_new(uint8_t *memory, uint64_t memory_size, const hv_memslot *slots,
                       uint32_t slot_count, uint32_t end_frame);
void hv_pages_free(hv_pages *pages);

/* Say whether gfn is shadowed as a page table; whether any frame of its region of 2 MiB is. */
int32_t hv_is_table(const hv_pages *pages, uint64_t gfn);
int32_t hv_holds_table(const hv_pages *pages, uint64_t gfn);

/* Return the shadow page of a guest table after this one (0: the first), oldest first; 0 at the end. */
uint32_t hv_next_shadow(const hv_pages *pages, uint64_t gfn, uint32_t page);

/* Return the shadow page that an entry links to, 0 if it links to none. */
uint32_t hv_child(const hv_pages *pages, uint64_t sptep);

/* Return the page for gfn under role, made if there is none; a failure is negative. */
int32_t hv_page_get(hv_pages *pages, uint64_t gfn, uint32_t role);
void hv_zap_page(hv_pages *pages, uint32_t page);

/* Point an entry that maps nothing to a shadow page; have it map memory; leave it to the guest. */
void hv_link(hv_pages *pages, uint64_t sptep, uint32_t child);
void hv_set_leaf(hv_pages *pages, uint64_t sptep, uint64_t spte);
void hv_set_notrap(hv_pages *pages, uint64_t sptep);

/* Make an entry trap, and return whether it mapped something. */
int32_t hv_zap_entry(hv_pages *pages, uint64_t sptep);

/* Fill at most room places with the entries (sptep) that link to a page, and return how many do. */
uint64_t hv_parents(const hv_pages *pages, uint32_t page, uint64_t *sptep, uint64_t room);

/* The same for the leaves of all guest memory: sptep, and hpa of the first frame that it maps. */
uint64_t hv_leaves(const hv_pages *pages, uint64_t *sptep, uint64_t *hpa, uint64_t room);
