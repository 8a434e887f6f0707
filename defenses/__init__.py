"""Defences against poisoned releases: one defence, one file."""
