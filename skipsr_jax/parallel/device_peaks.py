"""The most floating-point operations per second of known devices, for utilisation."""

import re

PEAK_BF16 = (
    (r"H100 PCIe", 756e12),
    (r"H100 NVL", 835e12),
    (r"H100|H200", 989e12),
    (r"A100", 312e12),
    (r"TPU v6", 918e12),
    (r"TPU v5 ?(lite|e)", 197e12),
    (r"TPU v5", 459e12),
    (r"TPU v4$", 275e12),
)
"""Dense bfloat16 operations per second by a pattern of ``device_kind``; the first match counts.

Sources: NVIDIA's data sheets of H100, H200 and A100; Google Cloud's pages of TPU v4, v5e, v5p and
v6e.
"""


def peak_flops(device_kind: str) -> float | None:
    """Peak dense bfloat16 operations per second of one device; None for a kind not in the table."""
    found = (peak for pattern, peak in PEAK_BF16 if re.search(pattern, device_kind))
    return next(found, None)
