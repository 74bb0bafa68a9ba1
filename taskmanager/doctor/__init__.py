"""Tests the host and says how to mend what it finds: `taskmanager doctor`, GET /api/admin/doctor.

It must also run where half of the program or of what it needs is missing. So
findings, checks, case and report need nothing but Python's own library, every
check is loaded when its turn comes, and one that fails is a finding itself.
It changes nothing: it makes no database, no tables and no file that stays.
"""
