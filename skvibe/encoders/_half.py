"""When to compute in bfloat16."""

import torch


def use_bfloat16(choice, device):
    """Whether to; ``choice`` is True, False or "auto" (GPUs that have it)."""
    if choice != "auto":
        return bool(choice)
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
