"""Thin entry points, `python -m jobs.<name>`: read a spec, plan, call cluster, record."""
