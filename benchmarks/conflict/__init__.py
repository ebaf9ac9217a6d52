"""How rewards conflict, and which advantage rule resolves it: ``recrl bench conflict``.

known answers   ``problems`` (the tables), ``oracles`` (their optima), ``tabular`` and ``transformer``
                (training), ``scores`` (one run)
many runs       ``suite`` (running), ``statistics`` and ``summary`` (figures), ``plots`` and ``report``
own rewards     ``answers`` (read or sampled), ``empirical`` (their optimum), ``own`` and ``own_report``
command line    ``cli``
"""
