"""Sends messages out of the queue: signs them, and posts them to addresses that may be reached.

Knows no HTTP API. Nothing here decides what happens to a task.
"""
