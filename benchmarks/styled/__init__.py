"""Meta-prompting: a writer under guidelines against the same writer without, and against templates."""
