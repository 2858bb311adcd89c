"""YAML 1.2 settings: `no` is text, `1e-3` a number, duplicate keys are refused."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, Node, SafeConstructor, SafeRepresenter, ScalarNode, SequenceNode
from ruamel.yaml.error import YAMLError

from adacomcat.timetable import read_timetable


class _Constructor(SafeConstructor):
    pass


def _read_latency(constructor: _Constructor, node: Node) -> dict[str, Any]:
    """`!latency FILE`: the table in a file of `adacomcat latency`, in place of its name.

    So a configuration holds what was measured, whatever becomes of the file.
    """
    if not isinstance(node, ScalarNode):
        line = node.start_mark.line + 1
        raise ValueError(f"line {line}: !latency takes the name of a file")
    return read_timetable(Path(node.value))


_Constructor.add_constructor("!latency", _read_latency)


class _Representer(SafeRepresenter):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> ScalarNode:
        # Some line breaks of Unicode would be read back as spaces.
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def represent_sequence(
        self, tag: Any, sequence: Iterable[Any], flow_style: bool | None = None
    ) -> SequenceNode:
        node: SequenceNode = super().represent_sequence(tag, sequence, flow_style)
        # A list of numbers reads best in one line, a list of mappings below each other.
        node.flow_style = all(isinstance(entry, ScalarNode) for entry in node.value)
        return node


_Representer.add_representer(str, _Representer.represent_str)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor, yaml.Representer = _Constructor, _Representer
    yaml.default_flow_style, yaml.width = False, 96
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    return yaml


def read_yaml(text: str | bytes) -> Any:
    """Read settings.

    Raises:
        ValueError: no YAML, in one line; `line 3: ...` where the text has lines.
    """
    try:
        return _yaml().load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        mark = getattr(error, "problem_mark", None)
        if mark is not None and len(text.splitlines()) > 1:
            problem = f"line {mark.line + 1}: {problem}"
        raise ValueError(problem) from None


def write_yaml(values: Any) -> str:
    """Plain data as YAML that `read_yaml` reads back: a line an entry, lists of scalars in one."""
    stream = io.StringIO()
    _yaml().dump(values, stream)
    return stream.getvalue()
