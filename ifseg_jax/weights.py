"""The official OFA checkpoints that image-free training starts from, and their tokenizer.

Addresses of checkpoints: checkpoints.md of the official OFA repository, which gives neither sizes nor checksums.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from vlseg import files
from vlseg.checkpoints import download
from vlseg.checkpoints.download import WeightFile
from vlseg.errors import DownloadError

WEIGHTS: Mapping[str, WeightFile] = {
    name: WeightFile(f"https://ofa-beijing.oss-cn-beijing.aliyuncs.com/checkpoints/{name}.pt")
    for name in ("ofa_tiny", "ofa_medium", "ofa_base", "ofa_large", "ofa_huge")
}
"""What `vlseg.checkpoints.download.fetch` can download for IFSeg."""

_BPE = "https://raw.githubusercontent.com/OFA-Sys/OFA/a36b91ce86ff105ac8d9e513aa88f42b85e33479/utils/BPE"
TOKENIZER: Mapping[str, WeightFile] = {
    "encoder": WeightFile(
        f"{_BPE}/encoder.json", 1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
    "vocab": WeightFile(
        f"{_BPE}/vocab.bpe", 456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    ),
    "dict": WeightFile(f"{_BPE}/dict.txt", 603290, "2c31c5b236661067fe8626775eb995ef5fe808ac87d2ad4a6ddbef68550f5cc6"),
}
"""The files of the official utils/BPE, as of the last commit of the official OFA repository."""

TOKENIZER_FOLDER = "BPE"
"""Where they are, beside the downloaded checkpoints."""


def tokenizer_folder() -> Path:
    """Where the tokenizer of the official checkpoints is once it was fetched."""
    return files.cache_directory() / TOKENIZER_FOLDER


def has_tokenizer() -> bool:
    """Whether it was."""
    return all(download.target(name, file, tokenizer_folder()).is_file() for name, file in TOKENIZER.items())


def fetch_tokenizer() -> Path:
    """The folder with the tokenizer of the official checkpoints, downloaded at its first use.

    Raises:
        DownloadError: a file cannot be fetched; the message says which, and where to put it.
    """
    for name in TOKENIZER:
        download.fetch(name, TOKENIZER, tokenizer_folder())
    return tokenizer_folder()


def official_tokenizer(source: str | os.PathLike[str]) -> Path | None:
    """The folder with the tokenizer of an official model, None if it cannot be had: what needs words says so then.

    Args:
        source: what is loaded. With one of `WEIGHTS`, by its name or by the path that it was downloaded to, comes the
            tokenizer; other models use it if it is there.
    """
    downloaded = {os.fspath(download.target(name, file)) for name, file in WEIGHTS.items()}
    if os.fspath(source) in (*WEIGHTS, *downloaded):
        with contextlib.suppress(DownloadError):
            return fetch_tokenizer()
    return tokenizer_folder() if has_tokenizer() else None
