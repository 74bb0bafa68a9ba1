"""Who may do what: API keys, the caller that a key stands for, the audit trail."""
