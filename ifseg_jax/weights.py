"""The official OFA checkpoints that image-free training starts from.

Addresses: checkpoints.md of the official OFA repository, which gives neither sizes nor checksums.
"""

from collections.abc import Mapping

from vlseg.checkpoints.download import WeightFile

WEIGHTS: Mapping[str, WeightFile] = {
    name: WeightFile(f"https://ofa-beijing.oss-cn-beijing.aliyuncs.com/checkpoints/{name}.pt")
    for name in ("ofa_tiny", "ofa_medium", "ofa_base", "ofa_large", "ofa_huge")
}
"""What `vlseg.checkpoints.download.fetch` can download for IFSeg."""
