"""PyTorch's files, read and written without PyTorch: zip archives (`torch.save` since 1.6), and the format before.

An archive `NAME/` holds a pickle `data.pkl`, in which a tensor names a storage, and one uncompressed record `data/KEY`
for every storage. The pickle is not given to Python's own unpickler, which would run whatever the file asks for: its
instructions are carried out here, one by one, in time and memory that the file's length bounds. What they name is in a
table of our own stand-ins (`names`), or becomes a record that never does anything, or ends the reading if it could run.
Tensors stay in the file until they are read, one at a time.

Source of the format: PyTorch, torch/serialization.py and caffe2/serialize/inline_container.cc.
"""

from vlseg.torch_files.names import Record, Reference
from vlseg.torch_files.reading import STATE_KEYS, Weights, load, load_plain, load_state_dict, load_weights
from vlseg.torch_files.settings import settings_of
from vlseg.torch_files.tensors import LazyTensor, Storage
from vlseg.torch_files.writing import save

__all__ = [
    "STATE_KEYS",
    "LazyTensor",
    "Record",
    "Reference",
    "Storage",
    "Weights",
    "load",
    "load_plain",
    "load_state_dict",
    "load_weights",
    "save",
    "settings_of",
]
