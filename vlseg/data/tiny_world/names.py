"""The vocabulary of the tiny world: names, synonyms and hypernyms. A label id is an index into `NAMES`."""

TEXTURES: tuple[str, ...] = ("grass", "water", "sand", "bricks", "wood", "snow", "carpet", "marble")
OBJECTS: tuple[str, ...] = (
    "apple",
    "banana",
    "tree",
    "house",
    "car",
    "fish",
    "star",
    "mushroom",
    "cup",
    "umbrella",
)
NAMES: tuple[str, ...] = TEXTURES + OBJECTS

SYNONYMS: dict[str, tuple[str, ...]] = {
    "grass": ("lawn", "meadow"),
    "water": ("sea", "lake"),
    "sand": ("beach", "desert"),
    "bricks": ("brickwork", "masonry"),
    "wood": ("planks", "timber"),
    "snow": ("powder", "frost"),
    "carpet": ("rug", "mat"),
    "marble": ("stone", "granite"),
    "apple": ("pippin",),
    "banana": ("plantain",),
    "tree": ("oak", "shrub"),
    "house": ("home", "cottage"),
    "car": ("automobile", "sedan"),
    "fish": ("goldfish",),
    "star": ("pentagram",),
    "mushroom": ("toadstool",),
    "cup": ("mug", "teacup"),
    "umbrella": ("parasol",),
}

HYPERNYMS: dict[str, str] = {
    "grass": "plant",
    "water": "liquid",
    "sand": "ground",
    "bricks": "wall",
    "wood": "floor",
    "snow": "weather",
    "carpet": "furnishing",
    "marble": "rock",
    "apple": "fruit",
    "banana": "fruit",
    "tree": "plant",
    "house": "building",
    "car": "vehicle",
    "fish": "animal",
    "star": "shape",
    "mushroom": "fungus",
    "cup": "container",
    "umbrella": "accessory",
}
