"""From a request to resource and action: routes, the catalog, and what model-serving protocols mean.

Law: exactly one meaning, or a refusal. Non-goal: who is calling, or whether they may.
"""
