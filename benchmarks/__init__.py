"""Benchmarks of recrl: each folder is one, ``recrl bench NAME``.

Their reports share ``markdown`` and ``figures``, their command lines ``options``; ``memory`` measures alike.
"""


class BenchmarkError(ValueError):
    """The benchmark cannot run as asked; the message names the setting, the value and the fix."""
