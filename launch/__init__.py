"""Getting a run onto accelerators: what a configuration will cost there, and how it is started."""
