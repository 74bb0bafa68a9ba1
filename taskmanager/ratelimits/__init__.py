"""Counts requests across the processes of one host, for the library `limits`. Knows no Flask.

The library's own storages need Redis, or count in each process alone (docs/decisions/0006).
"""
