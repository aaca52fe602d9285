"""IFSeg: image-free semantic segmentation with a vision-language encoder-decoder."""
