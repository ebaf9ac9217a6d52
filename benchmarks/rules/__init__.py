"""Advantage rules on a real task, tuned and deployed alike, and what a feasible policy costs.

``cells``    what is run: rules, the grid on which all are tuned, seeds
``execute``  runs them, each in processes of its own; one line of ``results.jsonl`` for each that ended
``answers``  answers of one policy, episode by episode
``stock``    a run of TRL's own ``GRPOTrainer``
``summary``  intervals, the order of the rules, time to a feasible policy
"""
