"""Pictures, label maps and data sets: reading, checking, transforming and ordering them."""
