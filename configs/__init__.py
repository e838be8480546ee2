"""Recipes: base.py holds every key and default, each other file one experiment."""
