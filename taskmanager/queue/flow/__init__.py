"""What some task types and tasks ask for beyond the queue itself. Others pay nothing for it."""
