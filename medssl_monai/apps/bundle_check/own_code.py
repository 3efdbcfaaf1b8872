"""Arguments of functions and classes in the bundle's own folder, read from their code without executing it."""

from __future__ import annotations

import ast
from inspect import Parameter

_Function = ast.FunctionDef | ast.AsyncFunctionDef
#: decorators that leave what a function is called with as it is
_HARMLESS = ("torch.no_grad", "torch.inference_mode", "cache", "lru_cache", "functools.cache", "functools.lru_cache")


def own_parameters(code: str, name: str) -> list[Parameter] | None:
    """Parameters with which a function or class of a module's top level is called.

    A class's are those of its ``__init__``, or of that of a base class in the same file.

    Args:
        code: the module's code.
        name: the function or class.

    Returns:
        The parameters; ``None`` where they cannot be told from this code alone.
    """
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return None
    defined = {n.name: n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    bound = [n.id for top in body if not isinstance(top, ast.ClassDef | _Function)
             for n in ast.walk(top) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]  # fmt: skip
    nested = [n for top in body if isinstance(top, ast.If | ast.Try) for n in ast.walk(top)]
    bound += [n.name for n in nested if isinstance(n, ast.ClassDef | _Function)]
    defined = {key: node for key, node in defined.items() if key not in bound}  # another meaning depends on the run
    found = defined.get(name)
    return _of_class(found, defined, set()) if isinstance(found, ast.ClassDef) else _of_function(found)


def _of_class(
    node: ast.ClassDef, defined: dict[str, ast.ClassDef | _Function], seen: set[str]
) -> list[Parameter] | None:
    """By the first class in which Python looks, as far as each has one base; ``None`` behind the file's own classes."""
    if node.name in seen or node.decorator_list or node.keywords:  # a dataclass or a metaclass makes its own
        return None
    methods = {n.name: n for n in node.body if isinstance(n, _Function)}
    assigned = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if "__new__" in methods or "__init__" in assigned:
        return None
    if "__init__" in methods:
        parameters = _of_function(methods["__init__"])
        positional = parameters and parameters[0].kind is not Parameter.KEYWORD_ONLY
        return None if parameters is None or not positional else _without_self(parameters)
    if not node.bases:
        return []
    base = node.bases[0]
    if len(node.bases) > 1 or not isinstance(base, ast.Name):
        return None
    if base.id == "object" and "object" not in defined:
        return []
    above = defined.get(base.id)
    return _of_class(above, defined, {*seen, node.name}) if isinstance(above, ast.ClassDef) else None


def _without_self(parameters: list[Parameter]) -> list[Parameter]:
    return parameters if parameters[0].kind is Parameter.VAR_POSITIONAL else parameters[1:]


def _of_function(node: ast.AST | None) -> list[Parameter] | None:
    if not isinstance(node, _Function):
        return None
    decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    if any(ast.unparse(decorator) not in _HARMLESS for decorator in decorators):
        return None
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    only = len(arguments.posonlyargs)
    # only whether there is a default counts, not which
    found = [
        Parameter(
            argument.arg,
            Parameter.POSITIONAL_ONLY if index < only else Parameter.POSITIONAL_OR_KEYWORD,
            default=Parameter.empty if index < required else None,
        )
        for index, argument in enumerate(positional)
    ]
    if arguments.vararg is not None:
        found.append(Parameter(arguments.vararg.arg, Parameter.VAR_POSITIONAL))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        empty = Parameter.empty if default is None else None
        found.append(Parameter(argument.arg, Parameter.KEYWORD_ONLY, default=empty))
    if arguments.kwarg is not None:
        found.append(Parameter(arguments.kwarg.arg, Parameter.VAR_KEYWORD))
    return found
