"""Recurring tasks: their definitions, when they are due, and running them."""
