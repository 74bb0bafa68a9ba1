"""What the schema of a task type may be, and whether params and request bodies fit."""
