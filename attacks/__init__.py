"""Attacks on what a federation releases: one threat, one file. README.md is the table of threats."""
