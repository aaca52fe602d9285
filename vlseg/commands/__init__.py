"""The commands, each written once for all packages; a package's own module of the same name says which package it is.

Each has `run(package, usage)`, which defines the flags, does the work and exits. Without a package it is found by the
configuration or by the checkpoint.
"""
