"""How well the tests can fail: change one thing in a module, run its tests, and see whether one of them fails.

Mutants of Python code are those of mutmut's operators (`mutmut.mutation.mutators`) and of `python.py`. mutmut's own
runner does not fit: it sees only functions that run in the tests' process, leaves out what is decorated or outside of
functions, and begins with the whole suite. cosmic-ray starts an interpreter for each mutant, one at a time. Neither
leaves statements out, and there is no tool for Lua.
"""
