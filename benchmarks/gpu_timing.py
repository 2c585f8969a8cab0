"""Times and launches of what ``gpu_check.py`` evaluates."""

import time

import numpy as np
import torch
from gpu_inputs import DEVICE


def milliseconds(evaluate, calls=10):
    """Median time of a call."""
    for _ in range(4):
        evaluate()
    times = []
    for _ in range(calls):
        wait()
        begin = time.perf_counter()
        evaluate()
        wait()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e3


def wait():
    """Until the GPU has done everything."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def launches(results, label, evaluate):
    """Kernels of a call: how many, how long, and which take longest."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        evaluate()
        torch.cuda.synchronize()
    kernels = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    busy = sum(event.self_device_time_total for event in kernels) / 1e3
    results.add(f"{label}: launches", sum(event.count for event in kernels))
    results.add(f"{label}: time in kernels", busy, "ms")
    for event in sorted(kernels, key=lambda event: -event.self_device_time_total)[:12]:
        print(f"    {event.self_device_time_total / 1e3:8.3f} ms  {event.count} × {event.key[:90]}")
