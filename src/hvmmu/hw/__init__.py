"""Hardware: the page walk, the TLB, and the engines that run accesses through them."""
