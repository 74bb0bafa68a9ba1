"""Export and import: the whole queue as JSON lines, between SQLite and MySQL either way."""
