"""Recipes, data and the one training loop."""
