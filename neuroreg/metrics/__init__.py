"""Measures of a registration."""
