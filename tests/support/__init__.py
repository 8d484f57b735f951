"""What several suites of tests share. On `sys.path` as `tests/` is: pytest puts it there for
`conftest.py`.
"""
