"""Entities, such as products, that a prompt names by one vector each instead of by their text.

``marks``  titles in a prompt, marked so that a policy with entity slots may read them as one vector
``store``  vectors of titles, memory-mapped
``build``  the job that fills a store
"""
