"""Envoy's side of the bargain: safe configuration written, unsafe configuration found.

Law: what `generate` prints, Envoy accepts and `lint` finds nothing in.
Non-goal: running Envoy.
"""
