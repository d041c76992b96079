/* What the compiled engine and Python share. cffi reads this file too, without its directives; hv_regs,
 * the events and the scopes of a flush are generated. */

#pragma once

#include "arch.h"
#include "walk.h"

/* Sets and ways of one TLB level. */
typedef struct {
    uint32_t sets, ways;
} hv_geometry;

/* Why a run ended, and the access that it ended at. */
typedef struct {
    int32_t event;
    uint32_t kind, pfec, level, access;
    uint64_t gva, pa;
} hv_stop;

typedef struct {
    uint64_t first_misses[2]; /* data, instructions */
    uint64_t misses, walk_refs;
} hv_counts;

typedef struct hv_engine hv_engine;

hv_engine *hv_new(uint8_t *memory, uint64_t size, hv_geometry instruction, hv_geometry data,
                  hv_geometry second);
void hv_free(hv_engine *engine);

/* Put registers in force; flushes nothing. formats is NULL while paging is off. */
void hv_load_regs(hv_engine *engine, const hv_regs *regs, const hv_formats *formats);

/* Walk from this root from now on; flushes nothing. */
void hv_set_engine_root(hv_engine *engine, uint64_t root);

/* Drop cached translations: of one page, those that are not global, all. */
void hv_flush(hv_engine *engine, int32_t scope, uint64_t va);

/* Run accesses start..count; return the index of the one that stopped, or count. landed may be NULL. */
uint64_t hv_run(hv_engine *engine, const uint64_t *gva, const uint8_t *kind, uint64_t start,
                uint64_t count, uint64_t *landed, uint64_t exit_filter, hv_stop *stop);

/* Run one access; return whether it landed, and where in *hpa, or else why not in *stop. */
int32_t hv_run_one(hv_engine *engine, uint64_t gva, uint32_t kind, uint64_t *hpa,
                   uint64_t exit_filter, hv_stop *stop);

/* Make reads as a supervisor while they change nothing, not even the TLB; return how many. */
uint32_t hv_read_at_once(const hv_engine *engine, const uint64_t *gva, uint64_t *hpa,
                         uint32_t count);

/* The same for accesses that are listed: each of kept is an index of site_gva and site_kind. */
uint64_t hv_run_sites(hv_engine *engine, const uint16_t *kept, const uint64_t *site_gva,
                      const uint8_t *site_kind, uint64_t start, uint64_t count,
                      uint64_t exit_filter, hv_stop *stop);

/* Make a 4 KiB page the most recent one of its set in a first level, if it is there. */
void hv_touch(hv_engine *engine, uint64_t gva, uint32_t kind);

/* One translation that the TLB holds. */
typedef struct {
    uint64_t tag;  /* page number and size, as spec/tlb.py has it */
    uint64_t leaf; /* the address, D, G and key as an entry has them; W, U and I/D that the path allows */
} hv_translation;

/* List the translations of all levels, those of two levels twice: room of them at most; return how many
 * there are. */
uint32_t hv_translations(const hv_engine *engine, hv_translation *out, uint32_t room);

/* Counters since the start; they stay where they are as long as the engine lives. */
const hv_counts *hv_counts_of(const hv_engine *engine);
