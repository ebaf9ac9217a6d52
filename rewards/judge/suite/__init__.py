"""Minimal pairs that test judges: two texts on one item, of which one has a defect by construction.

``authors``     who writes: the templates that writers are taught, and held-out ones that share no sentence
``worlds``      a household's facts with one of them changed, out of which an author writes a lie
``families``    kinds of defects, each with what it changes
``pairs``       pairs, what their two sides are, and how they are kept
``draws``       households, days and exchanged goods that a suite is drawn from
``build``       a suite out of rows of the explanations task
``ranked``      contexts with candidates of three grades, for judges that learn to rank
``lists``       a suite out of rows of the tags task
``blind``       a suite is refused when a model that reads the text alone can tell its lies
``injections``  texts that give a judge orders

Labels come from construction: no person has judged anything here.
"""
