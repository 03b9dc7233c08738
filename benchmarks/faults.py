"""Small faults in a module's syntax tree, one at a time: another comparison, bound, constant, clock, a statement less.

Law: what the type checker would refuse is no fault; decorators, annotations and protocols stay. Non-goal: running.
"""

import ast
from collections import Counter
from collections.abc import Iterator

PAIRS = (
    *((ast.Lt, ast.LtE), (ast.Lt, ast.GtE), (ast.Gt, ast.GtE), (ast.Gt, ast.LtE), (ast.Eq, ast.NotEq)),
    *((ast.Is, ast.IsNot), (ast.In, ast.NotIn), (ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.FloorDiv)),
    *((ast.Mod, ast.Mult), (ast.LShift, ast.RShift), (ast.BitAnd, ast.BitOr), (ast.Continue, ast.Break)),
)
SWAPS = [*PAIRS, *((other, one) for one, other in PAIRS)]
NAMES = {"min": "max", "any": "all", "now_ns": "time_ns", "not_before_ns": "not_after_ns", "here": "there"}
NAMES |= {other: name for name, other in NAMES.items()}
# What a function may return instead: only what its annotation allows, for the rest the type checker sees.
RETURNS = (("None", None), ("int", 0), ("bool", True), ("bool", False), ("str", ""))


def swapped(node: ast.AST) -> list[ast.AST]:
    return [other() for one, other in SWAPS if type(node) is one]


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the faulty forms of one node."""
    match node:
        case ast.Compare(left, ops, right):
            for place, op in enumerate(ops):
                for other in swapped(op):
                    yield ast.Compare(left, [*ops[:place], other, *ops[place + 1 :]], right)
        case ast.BoolOp(op, values):
            yield from (ast.BoolOp(other, values) for other in swapped(op))
            for place in range(len(values)):
                rest = values[:place] + values[place + 1 :]
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.BinOp(left, op, right):
            yield from (ast.BinOp(left, other, right) for other in swapped(op))
        case ast.AugAssign(target, op, value):
            yield from (ast.AugAssign(target, other, value) for other in swapped(op))
            yield from (ast.Assign([target], value), ast.Pass())
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(str(value)):
            yield ast.Constant(f"XX{value}")
        case ast.Constant(None):
            yield ast.Constant(0)
        case ast.Name(name, context) if name in NAMES:
            yield ast.Name(NAMES[name], context)
        case ast.Attribute(value, name, context) if name in NAMES:
            yield ast.Attribute(value, NAMES[name], context)
        case ast.Return():
            allowed = [ast.Constant(value) for kind, value in RETURNS if kind in node.annotation.split(" | ")]
            yield from (ast.Return(each) for each in allowed if ast.dump(each) != ast.dump(node.value))
        case ast.Assign() | ast.Raise() | ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.Continue() | ast.Break():
            yield from (*swapped(node), ast.Pass())
        case ast.If(test, body, orelse):
            yield from (ast.If(each, body, orelse) for each in (ast.Constant(True), ast.Constant(False)))
        case ast.IfExp(test, body, orelse):
            yield from (body, orelse, ast.IfExp(test, orelse, body))
        case ast.For(target, _, body, orelse):
            yield ast.For(target, ast.Tuple([], ast.Load()), body, orelse)
        case ast.comprehension(target, items, ifs, is_async) if ifs:
            yield ast.comprehension(target, items, [], is_async)
        case ast.Call(called, args, keywords):
            yield from (ast.Call(called, args, keywords[:n] + keywords[n + 1 :]) for n in range(len(keywords)))
            if len(args) > 1 and ast.unparse(called) not in {"min", "max"}:
                yield from (
                    ast.Call(called, [args[1], args[0], *args[2:]], keywords),
                    ast.Call(called, args[:-1], keywords),
                )
            elif len(args) == 1 and not keywords and ast.unparse(called) not in {"tuple", "list"}:
                yield args[0]


def places(node: ast.AST, within: str = "") -> Iterator[tuple[str, ast.AST, str, int | None, ast.AST]]:
    """Yield (name of the function, parent, field, position, node) of everything that may be faulty."""
    for name, value in ast.iter_fields(node):
        for place, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            declared = name in {"decorator_list", "annotation", "returns", "bases"} or (
                isinstance(child, ast.ClassDef) and "Protocol" in map(ast.unparse, child.bases)
            )
            told = isinstance(child, (ast.Expr, ast.Assign)) and ast.unparse(child).startswith(
                ("'", '"', "__slots__", "...")
            )
            told |= isinstance(node, ast.Return) and isinstance(child, ast.Constant)
            if isinstance(child, ast.AST) and not declared and not told:
                inner = f"{within}.{child.name}" if isinstance(child, (ast.ClassDef, ast.FunctionDef)) else within
                yield inner.lstrip("."), node, name, place, child
                yield from places(child, inner)


def faults(tree: ast.Module) -> Iterator[tuple[int, tuple[str, str, str, int]]]:
    """Make one fault after the other in the tree itself; yield each while it is there.

    As its line, and (function, what was there, what is there, how many times that has been in this function).
    """
    line, seen = 0, Counter()
    for function in ast.walk(tree):
        for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
            if isinstance(node, ast.Return):
                node.annotation = ast.unparse(function.returns)
    for within, parent, field, place, node in list(places(tree)):
        line = getattr(node, "lineno", line)
        listed = getattr(parent, field)
        for other in variants(node):
            new = ast.fix_missing_locations(ast.copy_location(other, node))
            setattr(parent, field, new if place is None else [*listed[:place], new, *listed[place + 1 :]])
            fault = (within, ast.unparse(node), ast.unparse(other))
            seen[fault] += 1
            yield line, (*fault, seen[fault])
            setattr(parent, field, listed)
