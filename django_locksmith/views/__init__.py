"""The lock around a view: its key, and the responses of those who find it busy."""
