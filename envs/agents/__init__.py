"""Answerers that are made of several models, and the tasks that train their parts."""
