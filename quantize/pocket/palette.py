"""The background colours whose names `pocket` knows, as sRGB."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (16, 16, 18),
    "grey": (128, 130, 134),
    "red": (212, 38, 44),
    "orange": (247, 140, 32),
    "yellow": (252, 218, 60),
    "green": (58, 168, 76),
    "teal": (0, 138, 140),
    "sky blue": (140, 204, 244),
    "blue": (44, 92, 214),
    "navy": (24, 34, 86),
    "purple": (122, 58, 172),
    "pink": (246, 152, 192),
    "brown": (116, 74, 46),
    "cream": (244, 232, 204),
}
