"""Encoders in hardware: how they take a quality, and the layouts of frames that they take.

Their names end in the interface that they use: h264_nvenc, hevc_qsv, h264_vaapi, ... (FFmpeg's
documentation of codecs). Without a quality most of them write 2 Mbit/s, whatever the size.
"""

INTERLEAVED = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
"""Layouts with the two chroma planes in one, and the planar ones that hold the same codes."""
_SURFACE = {"vaapi": ("yuv420p", "yuv420p10le")}
"""Layouts in the memory of a device, and what is uploaded into them."""
_DEFAULT_QUALITY = 18
"""About the loss of libx264 at its default here; 0 is best, as of a constant rate factor."""
_NEEDS = {
    "nvenc": "an NVIDIA GPU that encodes video, and its driver",
    "qsv": "an Intel GPU and its driver",
    "amf": "an AMD GPU and its driver",
    "vaapi": "a GPU with a VA-API driver",
    "videotoolbox": "a Mac",
    "v4l2m2m": "a V4L2 device that encodes video",
    "vulkan": "a GPU whose Vulkan driver encodes video",
    "mf": "Media Foundation of Windows",
}
"""What an encoder needs of the machine, by the end of its name."""


def interface(codec: str) -> str:
    """The hardware interface of an encoder; "" for one in software."""
    name = codec.rpartition("_")[2]
    return name if name in ("nvenc", "qsv", "amf", "vaapi", "videotoolbox") else ""


def needs(codec: str) -> str:
    """What an encoder in hardware needs, and the way out, for a message; "" for one in software."""
    needed = _NEEDS.get(codec.rpartition("_")[2])
    if needed is None:
        return ""
    return f"it needs {needed}, and a frame size that it takes; choose another config.output.codec"


def is_hevc(codec: str) -> bool:
    """Whether an encoder writes HEVC."""
    return "265" in codec or codec.startswith("hevc")


def quality_options(codec: str, crf: int | None) -> dict[str, str]:
    """FFmpeg's options for a constant quality; none for an encoder in software."""
    quality = str(_DEFAULT_QUALITY if crf is None else crf)
    match interface(codec):
        case "nvenc":
            return {"rc": "vbr", "cq": quality, "b": "0"}
        case "qsv":
            return {"global_quality": quality}
        case "amf":
            return {"rc": "cqp", "qp_i": quality, "qp_p": quality}
        case "vaapi":
            return {"rc_mode": "CQP", "global_quality": quality}
        case "videotoolbox":  # 1 to 100, higher is better
            return {"q:v": str(max(1, 100 - 2 * int(quality)))}
    return {}


def planar(name: str) -> tuple[str, ...]:
    """The planar layouts whose codes a layout of an encoder can hold; its own name, if planar."""
    return _SURFACE.get(name) or (INTERLEAVED.get(name, name),)


def layout_for(pixel_format: str, accepted: list[str]) -> str:
    """The layout in which an encoder is given frames of a planar pixel format.

    ``accepted``: names of the layouts that it takes; empty where it does not say.
    """
    if not accepted or pixel_format in accepted:
        return pixel_format
    return next(name for name, same in INTERLEAVED.items() if same == pixel_format)
