"""A procedural world of named textures and named objects with dense labels, generated on the device from a key."""

from vlseg.data.tiny_world.dataset import TinyWorldDataset
from vlseg.data.tiny_world.names import HYPERNYMS, NAMES, OBJECTS, SYNONYMS, TEXTURES
from vlseg.data.tiny_world.world import MAX_OBJECTS, SPLITS, Scene, scene, scene_at, scenes, split_key

__all__ = [
    "HYPERNYMS",
    "MAX_OBJECTS",
    "NAMES",
    "OBJECTS",
    "SPLITS",
    "SYNONYMS",
    "TEXTURES",
    "Scene",
    "TinyWorldDataset",
    "scene",
    "scene_at",
    "scenes",
    "split_key",
]
