"""What the benchmarks need to import Hugging Face's package."""

import functools

import torch


@functools.cache  # which also keeps the library
def mend_torchvision() -> torch.library.Library | None:
    """Makes a torchvision that was built for CUDA importable with a torch for the CPU.

    Its box operators cannot be loaded then, and are missed at import only: nothing here needs
    them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None
