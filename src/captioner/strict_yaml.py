"""YAML of numbers, texts, lists and sections, bounded before anything is made of it.

A text of a few lines can stand for billions of values (aliases of aliases), and a number of
thousands of digits can be read but not shown. PyYAML has no limits of its own.
"""

import re

import yaml

# The project's own file has 10 kB and 400 values.
MAX_BYTES = 2**17
MAX_VALUES = 10_000
MAX_DIGITS = 100  # Python neither reads nor shows whole numbers of thousands


def read_yaml(text: str) -> object:
    """The value that a text stands for.

    Raises:
        ValueError: no YAML, or more than `MAX_VALUES`, with the line.
    """
    try:
        return _Loader(text).get_single_data()
    # Beside its own errors PyYAML lets through those of dates, numbers, deep nesting and of tags
    # such as `!!bool x`.
    except (
        yaml.YAMLError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
    ) as error:
        reason = " ".join(str(error).split()) or "a tag that does not fit its value"
        raise ValueError(reason) from None


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: PyYAML's 1.1 rules read 1e-05, which DVC writes for small rates, as text.

    A key that is there twice is an error, as in DVC; PyYAML alone would drop the first. Aliases and
    merge keys count as often as they are used: a few lines of them stand for billions of values.
    """

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        self.nodes += 1
        if self.nodes > MAX_VALUES:
            problem = f"more than {MAX_VALUES:,} values"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _expanded(node, {})
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise _broken(f"merge keys of more than {MAX_VALUES:,} values", node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _broken(f"the key {key.value!r} is there twice", node)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise _broken(f"a number of {len(node.value)} digits", node)
        return super().construct_yaml_int(node)


def _broken(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _expanded(node: yaml.Node, counted: dict[yaml.Node, int | None]) -> int:
    """How many values a node stands for, aliases written out; refuses too many."""
    if node in counted:
        if counted[node] is None:
            raise _broken("an alias within what it stands for", node)
        return counted[node]
    counted[node] = None
    total = 1
    if not isinstance(node, yaml.ScalarNode):
        for child in node.value:
            parts = child if isinstance(child, tuple) else (child,)
            total += sum(_expanded(part, counted) for part in parts)
            if total > MAX_VALUES:
                raise _broken(f"more than {MAX_VALUES:,} values, aliases written out", node)
    counted[node] = total
    return total


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
