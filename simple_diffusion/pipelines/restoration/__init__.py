"""Inputs, masks and results of restorations."""
