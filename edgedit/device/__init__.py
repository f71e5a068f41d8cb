"""The device room: run a bundle, measure it, and know the board. Needs numpy and a runtime; never torch or onnx."""
