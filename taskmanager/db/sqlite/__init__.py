"""What only SQLite needs: its connection, the lock of writers, commits that share one sync."""
