"""How the callers of one process, or of one event loop, wait for each other."""
