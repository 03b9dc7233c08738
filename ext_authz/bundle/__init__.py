"""Signed bundles of policies: what they look like, how one is made, and every step until one is believed.

Law: nothing of a bundle is used before its manifest's signature, name, revision
and expiry and then its every file were found right. Non-goal: HTTP (server) and what policies mean.
"""
