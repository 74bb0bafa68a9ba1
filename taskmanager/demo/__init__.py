"""`taskmanager demo`: the whole loop on real input, as a stranger would set it up.

The parent is the producer. Server and workers are processes of their own, and
everything between them goes over HTTP: nothing here touches the database.
"""

from taskmanager.demo.run import run_demo

__all__ = ["run_demo"]
