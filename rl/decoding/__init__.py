"""Decoding of answers: their token ids, and what may be written."""
