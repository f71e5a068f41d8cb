"""The corridor: types and file formats that every stage shares. No torch, no TensorRT, no CLI."""
