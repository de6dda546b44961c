"""What the admin's page shows."""
