"""Generated Triton kernels: the backend for NVIDIA GPUs."""
