"""Counts, statistics and metrics of the queue, bounded at any size."""
