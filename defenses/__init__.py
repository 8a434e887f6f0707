"""Defences of the server against malicious clients: one defence, one file."""
