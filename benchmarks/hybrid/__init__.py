"""``recrl bench hybrid``: what a store of millions of entities costs a training step.

``scale``  the measurement
``cli``    its command line
"""
