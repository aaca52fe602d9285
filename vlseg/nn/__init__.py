"""Layers and array functions shared by both models."""
