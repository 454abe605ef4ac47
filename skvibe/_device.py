"""Which torch device a computation runs on."""

import torch


def resolve_device(device):
    """Turn a ``device`` parameter into a `torch.device` that is there.

    Parameters
    ----------
    device : "auto", str or torch.device
        "auto" takes CUDA where there is one, else the CPU.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda' or another torch device, got "
            f"{device!r}."
        ) from error
    if resolved.type == "cuda":
        available = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (resolved.index or 0) >= available:
            raise ValueError(
                f"device={device!r} is not there: torch sees {available} CUDA "
                "device(s). Use device='auto' or 'cpu', or install a CUDA build of "
                "torch."
            )
    elif resolved.type != "cpu":
        raise ValueError(
            f"device={device!r} is not supported (float64 sums are needed): use "
            "'auto', 'cpu' or 'cuda'."
        )
    return resolved
