"""What the product does: functions with keyword-only arguments that take and return plain rows.

A row is a dict by column name. Services open the transactions, know nothing of
HTTP and read no global settings: limits and the present time are passed in.
"""
