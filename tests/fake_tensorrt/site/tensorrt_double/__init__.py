"""How the double of TensorRT behaves; `tensorrt` beside it is what code under test imports.

A double of the real module's classes: their names, signatures, properties and enums are read from NVIDIA's own extension, so
whatever that lacks in a version is lacking here too. What they do is written from the documentation (NVIDIA's Python API
pages, jetson.md §5) and runs the ONNX by ONNX Runtime on the CPU.

It cannot show: what TensorRT fuses or which kernels it takes on a device, speed, memory, numbers in TensorRT's arithmetic,
asynchronous execution (all work is done before a call returns), CUDA graphs (a captured call runs at capture and never again),
weakly typed networks, plugins, loops, refit, weight streaming, several profiles.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
# loading.py and signatures.py are shared with the contract tests; this works in child processes of any working directory.
__path__.append(str(ROOT / "tests" / "contract"))
