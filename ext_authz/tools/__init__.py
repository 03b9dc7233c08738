"""What people do with policies besides enforcing them: test, explain, look for mistakes.

Law: the same snapshot and the same check that the server runs.
"""
