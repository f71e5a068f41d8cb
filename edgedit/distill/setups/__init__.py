"""Distillation setups, one a file; `edgedit.distill.setup` says what each holds."""
