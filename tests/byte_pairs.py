"""Byte-pair encoding in plain Python, from GPT-2's definition: what both models' tokenizers are compared with."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

Merges = Sequence[tuple[str, str]]


def alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in of each byte: itself where Latin-1 shows it, else the next character from U+0100."""
    shown = [byte for byte in range(256) if chr(byte).isprintable() and byte not in (0x20, 0xA0, 0xAD)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def merged(pieces: list[str], merges: Merges) -> list[str]:
    """Merges the best-ranked pair, everywhere it stands, until no pair is left to merge."""
    while ranked := [merges.index(pair) for pair in itertools.pairwise(pieces) if pair in merges]:
        left, right = merges[min(ranked)]
        found: list[str] = []
        for piece in pieces:
            # A piece just merged never equals `left`: a merge is longer than its parts.
            if found and found[-1] == left and piece == right:
                found[-1] = left + right
            else:
                found.append(piece)
        pieces = found
    return pieces


def write(directory: Path, ids: Mapping[str, int], merges: Merges, names: Sequence[str] = ("vocab.json", "merges.txt")):
    """The two files of an encoder, by Hugging Face's or other names. Returns the directory."""
    directory.mkdir(exist_ok=True)
    (directory / names[0]).write_text(json.dumps(ids))
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    (directory / names[1]).write_text(f"#version: 0.2\n{lines}", encoding="utf-8")
    return directory


def write_dictionary(directory: Path, pieces: Mapping[str, int]) -> Path:
    """OFA's three files, encoder.json, vocab.bpe and dict.txt, with these ids for these pieces. Returns the directory.

    Pieces that begin a word begin with "Ġ"; they are merged before the others, each from its left.
    """
    ordered = sorted(pieces, key=lambda piece: not piece.startswith("Ġ"))
    merges = dict.fromkeys((piece[:end], piece[end]) for piece in ordered for end in range(1, len(piece)))
    known = dict.fromkeys([*alphabet().values(), *(left + right for left, right in merges)])
    gpt2_ids = {piece: index for index, piece in enumerate(known)}
    write(directory, gpt2_ids, list(merges), ("encoder.json", "vocab.bpe"))
    lines = {ofa_id - 4: str(gpt2_ids[piece]) for piece, ofa_id in pieces.items()}
    others = iter([str(index) for piece, index in gpt2_ids.items() if piece not in pieces])
    count = max(lines) + 1 + len(gpt2_ids)
    listed = [lines[i] if i in lines else next(others, f"madeupword{i:05d}") for i in range(count)]
    (directory / "dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in listed))
    return directory
