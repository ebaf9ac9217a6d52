"""Agent-as-a-Judge (RecGPT-V2, arXiv 2512.14503): one evaluator a dimension, then a senior reviewer.

``findings``   what an evaluator finds, what a reviewer makes of it, and tables of both
``rubric``     dimensions of a judge, out of a file
``checkers``   evaluators that know what is true: they read the log, not a model
``asked``      evaluators that ask a language model
``panel``      the judge: evaluators, reviewer

To add a dimension, write it into a rubric of your own; to add a checker, write a function (docs/judge.md).
"""
