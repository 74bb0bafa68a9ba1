"""Counting requests across the processes of one host."""
