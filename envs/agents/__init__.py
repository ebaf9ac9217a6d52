"""Answerers that are made of several models."""
