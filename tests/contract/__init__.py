"""Our code against the real bindings of the libraries that it calls, and the double of TensorRT made from them."""
