"""Searching: what a search asks, what it compares with, and its result."""
