"""Data sets as people have them: folders of pictures, few large files, and those of TensorFlow Datasets."""
