"""``recrl judge``: judges on texts with known defects, people, and rewards made of grades.

``verdicts``   what a judge says of every item, and how it is kept
``opponents``  judges to compare with: trivial, blind, one pass, single prompt
``measure``    figures with intervals over households
``report``     Markdown and plots
``suites``     texts of known grades out of a task's rows
``bench``      the benchmark: suite, judges, figures
``losses``     losses that teach a judge, compared from the same start; ``losses_report``: its report
``labels``     people's answers: how they are asked for, kept, imported and compared
``grading``    candidates that are judged, and the grades distilled into a reward
``flywheel``   grade, distil, train, again
"""
