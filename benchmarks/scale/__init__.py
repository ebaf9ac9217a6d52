"""``recrl bench scale``: large logs, several processes, and runs that are killed.

``data``      tables of logs of growing size: time and memory
``training``  several processes: time of a step, memory of each, cost of a checkpoint
``resume``    runs that are killed and go on, against one that is not
"""
