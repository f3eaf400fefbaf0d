"""How a process on a CPU keeps its memory."""

import ctypes

MMAP_MAX, TRIM_THRESHOLD = -4, -1        # mallopt's parameters, numbered as in glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors for the next ones, as torch does on CUDA; False where it cannot.

    By default glibc returns the memory of large tensors to the kernel, and each page of the next tensor
    costs a fault: up to half a million faults in one map of ViT-B, which took 0.5 to 4 of its 7 to 11 seconds
    on a virtual machine. It holds for the whole process, whose memory stays at its peak; so scripts ask
    for it, and importing this package does not. Only Linux with glibc can do so; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1))
