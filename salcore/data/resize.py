"""Images of another size."""

import numpy as np
import torch
from torch.nn.functional import interpolate

CHUNK_VALUES = 1 << 24


def resize(images: np.ndarray, size: int | None) -> np.ndarray:
    """Images `(N, C, H, W)` as `(N, C, size, size)`: bilinear with antialiasing, uint8 rounded; None leaves them.

    The aspect ratio is not kept: a whole picture becomes a square.
    """
    count, channels, height, width = images.shape
    if size is None or (height, width) == (size, size):
        return images
    out = np.empty((count, channels, size, size), dtype=images.dtype)
    step = max(1, CHUNK_VALUES // (channels * max(height * width, size * size)))
    for start in range(0, count, step):
        # A copy in float32, hence writable: torch must not see read-only memory.
        chunk = torch.from_numpy(images[start : start + step].astype(np.float32))
        smaller = interpolate(chunk, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        if images.dtype == np.uint8:
            smaller = smaller.round_().clamp_(0, 255)
        out[start : start + step] = smaller.numpy()
    return out
