"""The server for a machine of one's own: gunicorn, and how it receives requests."""
