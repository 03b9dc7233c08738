"""The policy decision point: language (schema), meaning (conditions, matching), compiler, engine, explain, lint.

Law: no match denies, a deny beats every allow, what cannot be evaluated never
allows and never disables a deny. Non-goal: I/O, wires, clocks.
"""
