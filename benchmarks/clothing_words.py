"""Thirty words for the names of the clothing data set, none of which is a name that a model is trained with.

They were written down before any of them was asked for, and are not to be changed afterwards: a list that is chosen by
its scores measures nothing. Most stand for names that are frequent enough to be scored (at least 5 of the 143
photographs of val); "spectacles" does not, and is here because everybody would think of it.
"""

from typing import NamedTuple


class Word(NamedTuple):
    """A word and the trained names that it stands for.

    Of a synonym that is one name: either may be said for most things that the other is said for ("trousers", "pants"),
    or the word is what people say of the common case ("ponytail", "miniskirt"). A hypernym stands for the union.
    """

    text: str
    names: tuple[str, ...]


SYNONYMS = (
    Word("trousers", ("pants",)),
    Word("handbag", ("bag",)),
    Word("gown", ("dress",)),
    Word("spectacles", ("glasses",)),
    Word("ponytail", ("hair",)),
    Word("denims", ("jeans",)),
    Word("pullover", ("sweater",)),
    Word("dark glasses", ("sunglasses",)),
    Word("overcoat", ("coat",)),
    Word("tee shirt", ("t-shirt",)),
    Word("cap", ("hat",)),
    Word("flesh", ("skin",)),
    Word("pocketbook", ("purse",)),
    Word("miniskirt", ("skirt",)),
    Word("shawl", ("scarf",)),
    Word("tuxedo", ("suit",)),
    Word("button-down", ("shirt",)),
    Word("windbreaker", ("jacket",)),
    Word("bermudas", ("shorts",)),
    Word("sports jacket", ("blazer",)),
)

FOOTWEAR = ("boots", "clogs", "flats", "heels", "loafers", "pumps", "sandals", "shoes", "sneakers", "wedges")
OUTERWEAR = ("blazer", "cape", "coat", "jacket")
HOSIERY = ("socks", "stockings", "tights")
KNITWEAR = ("cardigan", "jumper", "sweater")
BOTTOMS = ("jeans", "leggings", "pants", "shorts", "skirt")
REST = (
    "blouse",
    "bodysuit",
    "bra",
    "dress",
    "hoodie",
    "intimate",
    "panties",
    "romper",
    "shirt",
    "suit",
    "sweatshirt",
    "swimwear",
    "t-shirt",
    "top",
    "vest",
)
"""Garments of none of the groups before."""

HYPERNYMS = (
    Word("footwear", FOOTWEAR),
    Word("headwear", ("hat",)),
    Word("outerwear", OUTERWEAR),
    Word("eyewear", ("glasses", "sunglasses")),
    Word("hosiery", HOSIERY),
    Word("knitwear", KNITWEAR),
    Word("neckwear", ("scarf", "tie")),
    Word("luggage", ("bag", "purse", "wallet")),
    Word("bottoms", BOTTOMS),
    Word("clothes", (*OUTERWEAR, *HOSIERY, *KNITWEAR, *BOTTOMS, *REST)),
)

WORDS = (*SYNONYMS, *HYPERNYMS)

PAIRS = (
    ("shoes", "footwear"),
    ("hat", "headwear"),
    ("coat", "outerwear"),
    ("jacket", "outerwear"),
    ("sunglasses", "eyewear"),
    ("stockings", "hosiery"),
    ("sweater", "knitwear"),
    ("scarf", "neckwear"),
    ("bag", "luggage"),
    ("jeans", "bottoms"),
)
"""A trained name and a hypernym of it that should both hold of the same pixels."""
