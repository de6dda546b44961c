"""What goes with other software. Nothing here is imported unless one imports it."""
