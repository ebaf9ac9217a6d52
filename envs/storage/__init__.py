"""Folders and states on disk that are whole or not there, and whose files run no code."""
