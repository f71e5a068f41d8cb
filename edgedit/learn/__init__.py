"""What every training run shares, whatever it teaches: averages, checkpoints, metrics, order, processes, the loop itself."""
