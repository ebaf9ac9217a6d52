"""Savings of reading each prompt once, against stock TRL: ``recrl bench speed``.

what is run    ``cells`` (cells and kinds), ``workload`` (policy, prompts, rewards)
running        ``worker`` (one process a kind, its steps timed), ``measure`` (their turns, ``speed.json``)
what is said   ``summary`` (ratios of a cell), ``plots`` and ``report``
command line   ``cli``
"""
