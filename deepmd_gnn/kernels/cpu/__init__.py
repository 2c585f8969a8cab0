"""Generated C++ kernels for CPUs, and the compiler that makes libraries of them."""
