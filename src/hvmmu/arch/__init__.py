"""Facts from the manuals, with no state: registers, error codes, entry formats, paging modes."""
