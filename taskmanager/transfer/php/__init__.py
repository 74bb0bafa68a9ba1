"""The import of a queue of the PHP TaskManager, which has tables of its own."""
