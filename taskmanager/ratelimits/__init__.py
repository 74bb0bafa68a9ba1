"""Counts requests across the processes of one host, for the library `limits`. Knows no Flask.

The library has no storage for a host without Redis or a daemon: its storage in memory
counts in each process alone, so four processes let four times the limit pass. So the
counts are kept in a file of fixed size, which costs 12 µs a hit
(docs/decisions/0006-requests-are-counted-in-a-file.md).
"""
