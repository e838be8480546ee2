"""Conditions besides class and place: their parts, and prompts."""
