"""Processes that a test starts from functions of its own.

They are forked from one that has imported what all tests import: a new one runs within
milliseconds, where a Python that starts takes half a second of the processor's time.
"""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.conftest"])
