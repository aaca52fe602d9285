"""Records what pydensecrf2 makes of three photographs: crops for the tests, whole pictures for a comparison.

In an environment of its own (Python 3.9 builds it):

    pip install "setuptools<70" "cython<3" "numpy<2" scikit-image==0.24.0
    pip install --no-build-isolation pydensecrf2==1.1
    python tests/vlseg/evaluation/golden/record_crf.py tests/vlseg/evaluation/golden           # the crops
    python tests/vlseg/evaluation/golden/record_crf.py DIR --whole                             # whole pictures

The photographs come with scikit-image: `astronaut` (NASA, public domain), `chelsea` (Stefan van der Walt, CC0) and
`coffee` (Rachel Michetti, Pikolo Espresso Bar, CC0). The probabilities that are refined look like those of a model with
a coarse grid: k-means of the mean colours of a grid, soft, upsampled bilinearly. A file holds "image" uint8 [H, W, 3],
"grid" float32 [h, w, M], what became of it "refined" uint8 [H, W, M] in steps of 1/255, "label_map" uint8 [H, W] and
"version".
"""

import argparse
import dataclasses
import importlib.metadata
import pathlib
import time

import numpy as np
import pydensecrf.densecrf
import pydensecrf.utils
import skimage.color
import skimage.data

ITERATIONS = 10
STRIDE = 16


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A photograph, how many labels it gets, and the upper left corner of its crop."""

    name: str
    labels: int
    corner: tuple


PHOTOGRAPHS = (
    Photograph("astronaut", 6, (60, 150)),
    Photograph("chelsea", 4, (70, 100)),
    Photograph("coffee", 12, (80, 160)),
)
CROP = (96, 128)


def clusters(points: np.ndarray, count: int, rounds: int = 30) -> np.ndarray:
    """Centres float64 [count, d] of k-means over points [N, d], begun with points that lie far from each other."""
    centres = points[:1]
    for _ in range(count - 1):
        distances = ((points[:, None] - centres) ** 2).sum(-1).min(1)
        centres = np.concatenate([centres, points[distances.argmax()][None]])
    for _ in range(rounds):
        nearest = ((points[:, None] - centres) ** 2).sum(-1).argmin(1)
        centres = np.stack([points[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(count)])
    return centres


def coarse(image: np.ndarray, labels: int, softness: float = 100.0) -> np.ndarray:
    """Probabilities float32 [h, w, labels] on the grid of an image uint8 [H, W, 3]."""
    colours = skimage.color.rgb2lab(image)
    height, width = (side // STRIDE for side in colours.shape[:2])
    tiles = colours[: height * STRIDE, : width * STRIDE].reshape(height, STRIDE, width, STRIDE, 3).mean((1, 3))
    centres = clusters(tiles.reshape(-1, 3), labels)
    exponents = -((tiles[:, :, None] - centres) ** 2).sum(-1) / (2 * softness)
    exponents -= exponents.max(-1, keepdims=True)
    return (np.exp(exponents) / np.exp(exponents).sum(-1, keepdims=True)).astype(np.float32)


def upsample(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, pixel centres at halves, edges repeated: float32 [height, width, M]."""

    def weights(source: int, target: int) -> np.ndarray:
        centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(source)))

    rows, columns = weights(grid.shape[0], height), weights(grid.shape[1], width)
    return np.einsum("yh,hwm,xw->yxm", rows, grid, columns, optimize=True).astype(np.float32)


def refined(given: np.ndarray, image: np.ndarray) -> np.ndarray:
    """What pydensecrf2 makes of probabilities [H, W, M], with the settings of IFSeg's figure: float32 [H, W, M]."""
    height, width, labels = given.shape
    crf = pydensecrf.densecrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(pydensecrf.utils.unary_from_softmax(given.transpose(2, 0, 1))))
    crf.addPairwiseGaussian(sxy=1, compat=3)
    crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=np.ascontiguousarray(image), compat=4)
    out = np.array(crf.inference(ITERATIONS), np.float32)
    return np.ascontiguousarray(out.reshape(labels, height, width).transpose(1, 2, 0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    for photograph in PHOTOGRAPHS:
        image = getattr(skimage.data, photograph.name)()
        if not options.whole:
            row, column = photograph.corner
            image = image[row : row + CROP[0], column : column + CROP[1]]
        grid = coarse(image, photograph.labels)
        given = upsample(grid, *image.shape[:2])
        begun = time.perf_counter()
        found = refined(given, image)
        seconds = time.perf_counter() - begun
        changed = (found.argmax(-1) != given.argmax(-1)).mean()
        print(f"{photograph.name} {image.shape}: {100 * changed:.1f} % of pixels changed, {seconds:.2f} s")
        path = options.directory / f"crf_{photograph.name}.npz"
        rounded = np.rint(found * 255).astype(np.uint8)
        labels = found.argmax(-1).astype(np.uint8)
        version = f"pydensecrf2 {importlib.metadata.version('pydensecrf2')}"
        np.savez_compressed(path, image=image, grid=grid, refined=rounded, label_map=labels, version=version)


if __name__ == "__main__":
    main()
