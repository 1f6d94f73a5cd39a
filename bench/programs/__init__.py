"""Small programs over many kinds of work, and what can go wrong with them: what the report's rules are calibrated and
judged on. `python -m bench.programs` trains them and keeps their records; see `__main__`."""
