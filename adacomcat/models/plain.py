"""Checks that modules are exactly as a family expects, so that nothing is lost silently.

A family replaces modules by equal ones from what it reads off them. Whatever else changes the
forward of such a module (a subclass, an adapter, a hook, a parametrization, a `forward` of its own,
weights shared with another module) is refused by name.
"""

import types
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from adacomcat.checks import require
from adacomcat.models.heads import HeadAttention, LinearStandIn

HOOKS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a backward pre-hook",
}
ADAPTER = "merge it into the weights first (peft: merge_and_unload)"
PARAMETRIZED = "remove it first (torch.nn.utils.parametrize.remove_parametrizations)"
UNWRAP = "pass the model inside"
WRAPPERS = frozenset({"dataparallel", "distributeddataparallel", "optimizedmodule"})


def require_exact(
    module: nn.Module, name: str, kinds: Iterable[type[nn.Module]], allowed: str = ""
) -> None:
    """Raise unless a module is exactly of one of some classes, with the forward of its class.

    Args:
        module: what is looked at; not its children.
        name: of the module, for messages.
        kinds: the classes; a subclass of one is another.
        allowed: these in words; their names if left out.

    Raises:
        ValueError: names the module, what it is, and the way out where there is one.
    """
    kinds, kind = tuple(kinds), type(module)
    allowed = allowed or " or ".join(each.__name__ for each in kinds)
    if kind not in kinds:
        hint = way_out(module)
        require(False, name, kind.__name__, f"{allowed}; {hint}" if hint else allowed)
    _require_own_forward(module, name)


def require_linear(module: nn.Module, name: str) -> None:
    """Raise unless a module is a plain Linear with a weight, and a bias or none, without hooks.

    Raises:
        ValueError: names the module, what it is, and the way out where there is one.
    """
    require_exact(module, name, (nn.Linear,))
    require_no_hooks(module, name)
    require_parts(module, name, (), parameters=("weight", "bias"))


def require_stand_in(module: nn.Module, name: str) -> None:
    """Raise where something was put into or onto a module that a method had put into a model.

    Raises:
        ValueError: names the module inside, what it is, and the way out where there is one.
    """
    for inner, part in module.named_modules(prefix=name):
        if isinstance(part, nn.Linear):
            require_linear(part, inner)
        else:
            require(not way_out(part), inner, type(part).__name__, way_out(part))
            _require_own_forward(part, inner)
            require_no_hooks(part, inner)


def require_parts(
    module: nn.Module, name: str, children: Iterable[str], parameters: Iterable[str] = ()
) -> None:
    """Raise where a module holds children, parameters or buffers beside known ones.

    Raises:
        ValueError: names what is there beside them, or a parameter that is no plain one.
    """
    known = {"submodules": set(children), "parameters": set(parameters), "buffers": set()}
    held: Mapping[str, Mapping[str, Any]] = {
        "submodules": module._modules,
        "parameters": module._parameters,
        "buffers": module._buffers,
    }
    for what, found in held.items():
        beside = sorted(key for key, value in found.items() if value is not None)
        beside = [key for key in beside if key not in known[what]]
        allowed = f"no {what} beside those of timm's {type(module).__name__}"
        if type(module).__module__.startswith("torch."):
            allowed = f"no {what} beside those of PyTorch's {type(module).__name__}"
        require(not beside, name, beside, allowed)
    for key, parameter in module._parameters.items():
        if parameter is not None:
            require_plain_parameter(parameter, f"{name}.{key}")
    # A weight that is computed at each forward stands where the parameter was.
    for key in parameters:
        require(key in module._parameters, f"{name}.{key}", "no parameter", "a parameter")


def require_plain_parameter(parameter: Tensor, name: str) -> None:
    """Raise unless a parameter is plain and of floating point: neither quantized nor sharded."""
    kind = type(parameter).__name__
    require(type(parameter) is nn.Parameter, name, kind, "a plain Parameter")
    require(parameter.is_floating_point(), name, str(parameter.dtype), "floating point")


def require_no_hooks(module: nn.Module, name: str) -> None:
    """Raise where a module has hooks, which would go with it when it is replaced.

    Raises:
        ValueError: names the module and the kind of hook.
    """
    for attribute, what in HOOKS.items():
        if getattr(module, attribute, None):
            require(False, name, what, "no hooks: remove them first, they would be lost")


def require_unshared(model: nn.Module) -> None:
    """Raise where modules that hold parameters, or parameters themselves, have two names.

    Raises:
        ValueError: gives both names.
    """
    modules: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if next(module.parameters(), None) is None:
            continue
        first = modules.setdefault(id(module), name)
        allowed = "a module of its own: a change of one would be one of both"
        require(first == name, name, f"the module of {first}", allowed)
    parameters: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = parameters.setdefault(id(parameter), name)
        allowed = "a parameter of its own: a change of one would be one of both"
        require(first == name, name, f"the parameter of {first}", allowed)


def require_dense(model: nn.Module) -> None:
    """Raise if a model already contains a module of a method.

    Raises:
        ValueError: names the first of them.
    """
    for name, module in model.named_modules():
        dense = not isinstance(module, HeadAttention | LinearStandIn)
        require(dense, name, type(module).__name__, "a dense model: nothing of a method in it")


def _require_own_forward(module: nn.Module, name: str) -> None:
    """Raise where the forward is not that which the module's class was written with."""
    for attribute, value in vars(module).items():
        method = getattr(type(module), attribute, None)
        replaced = isinstance(method, types.FunctionType) and callable(value)
        allowed = f"the {attribute} of {type(module).__name__}: this module has its own"
        require(not replaced, f"{name}.{attribute}", getattr(value, "__name__", value), allowed)
    owner = next(each for each in type(module).__mro__ if "forward" in vars(each))
    written = getattr(vars(owner)["forward"], "__module__", None)
    allowed = f"the forward of {owner.__module__}: that of the class was replaced"
    require(written == owner.__module__, f"{name}.forward", written, allowed)


def way_out(module: nn.Module) -> str:
    """Advice about a module of an unknown class; may be empty."""
    kind = type(module)
    bases = [each.__name__.lower() for each in kind.__mro__]
    adapted = hasattr(module, "base_layer") or hasattr(module, "peft_config")
    if adapted or any("lora" in base or "adapter" in base for base in bases):
        return f"this is an adapter: {ADAPTER}"
    if parametrize.is_parametrized(module):
        return f"this has a parametrization: {PARAMETRIZED}"
    if WRAPPERS & {*bases}:
        return f"this wraps a model: {UNWRAP}"
    if kind is not nn.Linear and isinstance(module, nn.Linear):
        return f"this subclasses Linear: if it is an adapter (LoRA), {ADAPTER}"
    if any(type(child) is nn.Linear for child in module.children()) and hasattr(module, "weight"):
        return f"this wraps a Linear: if it is an adapter (LoRA), {ADAPTER}"
    return ""
