"""Runs the graphs that `edgedit export` writes with NumPy alone: for looking at images where no runtime is installed, not for speed."""
