"""The compiled engine in C, and how it is built."""
