"""The tables of an analysis as text: the paper's Tables 1 and 4, and Figure 5b as numbers."""

from collections.abc import Sequence

from skipsr_jax.evaluation.skip_analysis import ORACLE, PREDICTOR, TRAINING_FREE, Row


def table_of_oracle(rows: Sequence[Row]) -> str:
    """Table 1: the oracle mask.

    "no skip" is the PSNR of the autoencoder's reconstruction without skipping, and "to that" the
    PSNR against it; "ops ×" by how many times the transformer's operations fall, "DiT ×" and
    "all ×" the measured speed-up of the transformer and of the pipeline.
    """
    lines = [
        f"{'oracle mask':28s}{'frames':>7s}{'size':>11s}{'skip %':>8s}{'PSNR':>8s}{'SSIM':>8s}"
        f"{'LPIPS':>8s}{'no skip':>9s}{'to that':>9s}{'ops ×':>7s}{'DiT ×':>7s}{'all ×':>7s}"
    ]
    for row in rows:
        found, plain = row[ORACLE], row.get("reconstruction", {})
        size = f"{row['width']:.0f}x{row['height']:.0f}" if _is_clip(row) else ""
        measured = found.get("measured", {})
        lines.append(
            f"{row['name'][:27]:28s}{row['frames']:7.0f}{size:>11s}{100 * found['skip']:8.1f}"
            + _cell(found.get("psnr"), 8, 2) + _cell(found.get("ssim"), 8, 4)
            + _cell(found.get("lpips"), 8, 4) + _cell(plain.get("psnr"), 9, 2)
            + _cell(found.get("psnr_swap"), 9, 2) + _cell(found["speedup"], 7, 2)
            + _cell(measured.get("transformer"), 7, 2) + _cell(measured.get("pipeline"), 7, 2)
        )  # fmt: skip
    return "\n".join(lines)


def table_of_masks(rows: Sequence[Row]) -> str:
    """Table 4: the masks without truth, with differences from the oracle mask in brackets."""
    lines = []
    for kind in (PREDICTOR, TRAINING_FREE):
        with_mask = [row for row in rows if kind in row]
        if not with_mask:
            continue
        head = kind.replace("_", "-") + " mask"
        lines.append(f"{head:28s}{'skip %':>16s}{'PSNR':>16s}{'SSIM':>18s}{'F1':>8s}{'ops ×':>7s}")
        for row in with_mask:
            found, oracle = row[kind], row[ORACLE]
            lines.append(
                f"{row['name'][:27]:28s}"
                + _with_difference(found, oracle, "skip", 16, 1, 100.0)
                + _with_difference(found, oracle, "psnr", 16, 2)
                + _with_difference(found, oracle, "ssim", 18, 4)
                + _cell(found["f1"], 8, 3) + _cell(found["speedup"], 7, 2)
            )  # fmt: skip
    return "\n".join(lines)


def table_of_sweep(rows: Sequence[Row]) -> str:
    """Figure 5b as numbers: the means at each threshold."""
    lines = []
    for row in rows:
        lines.append(f"{row['name'][:27]:28s}{'tau':>9s}{'skip %':>8s}{'PSNR':>8s}{'SSIM':>8s}")
        lines += [
            f"{'':28s}{point['tau']:9.0e}{100 * point['skip']:8.1f}"
            + _cell(point.get("psnr"), 8, 2) + _cell(point.get("ssim"), 8, 4)
            for point in row["sweep"]
        ]  # fmt: skip
    return "\n".join(lines)


def _is_clip(row: Row) -> bool:
    return not row["name"].startswith("mean of")


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}s}" if value is None else f"{value:{width}.{digits}f}"


def _with_difference(
    found: Row, oracle: Row, key: str, width: int, digits: int, factor: float = 1.0
) -> str:
    if key not in found:
        return f"{'-':>{width}s}"
    difference = factor * (found[key] - oracle[key])
    return f"{f'{factor * found[key]:.{digits}f} ({difference:+.{digits}f})':>{width}s}"
