"""TensorRT 10.3 to 11.x from one code path: build on the board, prove the fusion, run."""
