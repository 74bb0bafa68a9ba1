"""Tests the host and says how to fix what it finds: `taskmanager doctor`, GET /api/admin/doctor.

The doctor must run even if half of the program or its libraries are missing. So
findings, checks, case and report import only the standard library. Each check is
imported just before it runs, and a check that fails becomes a finding itself.
The doctor changes nothing: it creates no database, no tables and no lasting file.
"""
