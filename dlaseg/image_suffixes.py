"""Suffixes of image files: those that are read, those that are not, those that label maps never have; and of videos."""

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in ("avif", "bmp", "dib", "gif", "jp2", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "ras")
    + ("sr", "tif", "tiff", "webp")
)
"""Lower-case suffixes of the formats that OpenCV decodes to 8 or 16 bits."""

OTHER_IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in ("arw", "cr2", "cr3", "dcm", "dng", "exr", "hdr", "heic", "heif", "jxl", "nef", "orf", "psd", "raf")
    + ("rw2", "svg", "tga")
)
"""Lower-case suffixes of formats that hold images and are not read, such as those of phones and cameras."""

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in ("3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "webm")
    + ("wmv", "y4m")
)
"""Lower-case suffixes of videos that OpenCV reads."""

LOSSY_SUFFIXES = frozenset({".avif", ".jp2", ".jpe", ".jpeg", ".jpg", ".webp"})
"""Suffixes of formats with lossy compression, which label maps never use."""
