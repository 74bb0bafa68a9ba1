"""The product: task types, tasks, claims, leases, retries, schedules. Knows nothing of HTTP."""
