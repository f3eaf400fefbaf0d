"""Lets a process keep the memory that it has freed, for speed on a CPU."""

import ctypes

MMAP_MAX, TRIM_THRESHOLD = -4, -1        # mallopt's parameters, numbered as in glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors for the next ones, as torch does on CUDA; False where that fails.

    By default glibc returns the memory of large tensors to the kernel, and each page of the next tensor
    costs a page fault: up to half a million of them in one map of ViT-B, which took 0.5 to 4 of its 7 to 11
    seconds on a virtual machine. The whole process is affected, whose memory then stays at its peak. So the
    scripts ask for it, and importing this package does not. It works on Linux with glibc; elsewhere nothing
    happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1))
