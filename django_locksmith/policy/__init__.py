"""Every rule, once, for threads and tasks."""
