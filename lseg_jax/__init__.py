"""LSeg: language-driven semantic segmentation. The model and its official weights; the commands are yet to come."""
