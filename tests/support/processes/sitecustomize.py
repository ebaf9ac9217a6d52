"""Python reads this as it starts in a process of a test: garbage is looked for less often.

That took a third of the time in which vLLM is imported, a start of a server imports it three times, and
Python has no variable for it.
"""

import gc

gc.set_threshold(50_000, 20, 100)
