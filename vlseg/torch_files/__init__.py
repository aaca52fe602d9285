"""PyTorch's zip archives (`torch.save` since 1.6), read and written without PyTorch.

An archive `NAME/` holds a pickle `data.pkl`, in which a tensor names a storage, and one uncompressed record `data/KEY`
for every storage. The pickle is not given to Python's own unpickler, which would run whatever the file asks for: its
instructions are carried out here, one by one, and the only things they can name are those of two tables in
`names`: one with our own stand-in for each, and one of modules whose classes become records that never do anything.
Tensors stay in the file until they are read, one at a time.

Source of the format: PyTorch, torch/serialization.py and caffe2/serialize/inline_container.cc.
"""

from vlseg.torch_files.names import Record, Reference
from vlseg.torch_files.reading import load, load_state_dict
from vlseg.torch_files.tensors import LazyTensor, Storage
from vlseg.torch_files.writing import save

__all__ = ["LazyTensor", "Record", "Reference", "Storage", "load", "load_state_dict", "save"]
