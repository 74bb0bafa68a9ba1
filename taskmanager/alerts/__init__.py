"""Tells people what is wrong: finds it by rules, keeps what was told, and sends messages.

Knows no HTTP API. Nothing here decides what happens to a task.
"""
