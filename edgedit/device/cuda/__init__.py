"""CUDA on the device: memory, streams, events, graphs and our own kernels, through pycuda and cuda-python."""
