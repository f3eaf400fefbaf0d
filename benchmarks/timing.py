"""Timings of several pieces of work in one run, interleaved, so that a slow minute hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from tqdm import tqdm


def medians(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each piece of work: the median of `rounds` rounds after one that warms up."""
    seconds = {name: [] for name in work}
    for turn in tqdm(range(rounds + 1), desc="rounds", unit="round"):
        for name, do in work.items():
            synchronise()
            start = time.perf_counter()
            do()
            synchronise()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def has_bf16(device: torch.device) -> bool:
    """Whether products in bfloat16 are quicker here than in float32, and not minutes of emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def machine(device: torch.device) -> str:
    """What the figures were measured on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return (f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
            f"torch {torch.__version__}")
