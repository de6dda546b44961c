"""Requests and replies, and how they travel."""
