"""Defences, one file each: on uploads, in the place of the server's training, on a trained model."""
