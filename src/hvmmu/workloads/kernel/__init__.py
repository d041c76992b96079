"""The C behind the compiled reduction, and how it is built."""
