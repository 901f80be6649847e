"""Measurements. Each prints a small table and can write JSON; none is a test."""
