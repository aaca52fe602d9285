"""LSeg: language-driven semantic segmentation. The model is not part of this release."""
