"""Payloads at rest: what tasks carry is encrypted in the database where their type says so."""
