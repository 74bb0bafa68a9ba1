"""Waking the calls of one host that wait for something to happen, whatever process it happens in.

Owns what calls may wait for (topics.py), the pipes by which processes tell each other
(pipes.py), and the calls of this process that wait (waiters.py). Refuses to look whether
something has happened: whoever was woken does that, and a wake-up may come for nothing.
"""
