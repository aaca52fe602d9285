"""What a large photograph and a long stream of pictures take, each measured in a process of its own."""

import json
import subprocess
import sys

import pytest

PRELUDE = """
import dataclasses, json, resource, sys
import jax, numpy as np
import lseg_jax
rng = np.random.default_rng(0)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
labels = [f"label {number}" for number in range(40)]
vectors = rng.standard_normal((40, 384)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
model = dataclasses.replace(lseg_jax.load("tiny"), known=dict(zip(labels, vectors)))
"""

PHOTOGRAPH = """
from PIL import Image
height, width = map(int, sys.argv[1:])
small = Image.fromarray(rng.integers(0, 256, (height // 64, width // 64, 3), dtype=np.uint8))
small.resize((width, height)).save("photograph.jpg")
model.segment(np.zeros((64, 64, 3), np.uint8), labels)
before = resident()
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
result = model.segment("photograph.jpg", labels)
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
print(json.dumps({"above": peak - before, "pixels": result.label_map.size, "labels": len(np.unique(result.label_map))}))
"""

STREAM = """
def pictures(count):
    for number in range(count):
        height, width = rng.integers(40, 300, 2)
        yield rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
found = []
for count in (60, 240):
    for result in model.segment_each(pictures(count), labels, top_k=2):
        result.label_map
    found.append(resident())
print(json.dumps(found))
"""


def measured(script, folder, *arguments):
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_photograph_of_50_megapixels(tmp_path):
    """It takes half a gigabyte and 40 bytes a pixel at most, with 40 labels as with one."""
    found = measured(PHOTOGRAPH, tmp_path, 6144, 8192)
    assert found["pixels"] == 6144 * 8192 and found["labels"] > 5
    assert found["above"] <= 0.5e9 + 40 * found["pixels"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stream_of_pictures_of_many_sizes_stays_flat(tmp_path):
    first, last = measured(STREAM, tmp_path)
    assert last - first < 40e6
