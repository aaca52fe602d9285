"""What the speed tables are made by."""
