"""From a trained student to an ONNX bundle: folded, typed, with attention in the dialect of its target, and checked."""
