"""What recrl is measured with: each folder is one benchmark, ``recrl bench NAME``.

``markdown`` and ``figures`` are what their reports share, ``options`` what their command lines share,
``memory`` what they measure alike.
"""


class BenchmarkError(ValueError):
    """The benchmark cannot run as asked; the message names the setting, the value and the fix."""
