"""What the locks of one process share."""
