"""Data sets as files hold them: a folder of pictures and label maps, annotations, few large files, and TFDS.

`folder` is what people have, `coco`, `labelme`, `cvat`, `colour_masks` and `roboflow` are what annotation tools write
(`tools` knows them by name), `prepared` is what `vlseg.data.prepare` writes, and `tfds` what TensorFlow Datasets does.
"""
