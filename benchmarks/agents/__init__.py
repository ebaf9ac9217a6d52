"""A team of planner, experts and arbiter against flat routes and one list, at equal budgets."""
