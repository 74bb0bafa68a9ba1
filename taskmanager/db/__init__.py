"""The database: connections, statements, transactions and tables. Knows no rule of the queue."""
