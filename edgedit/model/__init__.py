"""The network on the host: the training form, the folded inference form, and checkpoints. Needs torch."""
