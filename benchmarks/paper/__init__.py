"""The tables of RecGPT-V2 (arXiv 2512.14503), by one command: ``recrl bench paper``.

``plan``     ``paper.yaml``, the stages and their commands; which of them wait for others
``execute``  runs them in processes of their own, and goes on after a kill
``tables``   a stage's results -> rows: what the paper reports, what was found, whether the order holds
``base``     the policy before its warm start, and baselines, on the episodes of `recrl bench rules`
``quality``  grades of the agent judge, for policies trained on a list-wise and on a point-wise reward
``rows``     an order of two methods, and whether it holds
``report``   ``report.md`` and a picture

The paper's figures are of private data: only the order of methods can be compared.
"""
