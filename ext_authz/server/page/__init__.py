"""The page for operators: HTML made here, whole and readable without a script; a small script keeps it fresh.

Law: everything shown may come from an attacker, so text becomes markup in one place (html.py) and the page may load,
run and send nothing but what is in it (its Content-Security-Policy names it by digest).
"""
