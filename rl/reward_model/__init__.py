"""A language model with a scalar head that learns to score as a judge does.

``losses``    how scores are taught from grades: list-wise, pair-logistic, point-wise
``scoring``   scores of the candidates of one context, whose text is read once
``training``  distillation of graded candidates, and the probability of a good grade
"""
