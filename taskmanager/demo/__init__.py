"""`taskmanager demo`: a server, a producer and two workers on real input.

The parent process is the producer. The server and the workers are child
processes. They communicate over HTTP only: nothing here uses the database.
"""
