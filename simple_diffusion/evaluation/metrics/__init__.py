"""Metrics as plain functions of features or pixels."""
