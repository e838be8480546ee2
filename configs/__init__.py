"""Recipes: base.py has every key and default, each other file is one experiment."""
