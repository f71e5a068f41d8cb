"""Judging what was made: the parity ladder from training to deployment."""
