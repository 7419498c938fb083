"""YAML as settings are written in it: 1.2's words and numbers, no key twice, no bombs."""

import re

import yaml

# What PyYAML raises of a text; the last three of a tag, such as !!bool, of a value that is none.
UNREADABLE = (yaml.YAMLError, ValueError, RecursionError, AttributeError, KeyError, TypeError)
MAX_BYTES, MAX_VALUES = 2**20, 10_000  # of a YAML file, and of what its aliases make of it

_FLOAT = r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
_WORDS = {
    "tag:yaml.org,2002:bool": (re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "tag:yaml.org,2002:float": (re.compile(_FLOAT), "-+.0123456789"),
}


class YamlReader(yaml.SafeLoader):
    """YAML with 1.2's booleans and floats: `no` is a word (eval_strategy: no), and 1e-3 is a number.

    A key that stands twice is an error; every alias (`*tower`) is a copy, and has to fit into `MAX_VALUES`.
    """

    values = 0

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else key
            if name in seen:
                raise self.refuse(f"the key {name!r} stands twice", key)
            seen.add(name)
        return node

    def flatten_mapping(self, node):
        super().flatten_mapping(node)  # << of aliases
        if len(node.value) > MAX_VALUES:
            raise self.refuse(f"with aliases (*) it has over {MAX_VALUES} values", node)

    def construct_object(self, node, deep=False):
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.refuse(f"with aliases (*) it has over {MAX_VALUES} values", node)
        self.constructed_objects.pop(node, None)
        return super().construct_object(node, deep=True)

    def refuse(self, problem, node):
        return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


YamlReader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _WORDS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, (_pattern, _first) in _WORDS.items():
    YamlReader.add_implicit_resolver(_tag, _pattern, list(_first))


def parse_value(text):
    """One value of the command line, read as YAML: 5, 1e-3, true, null, [1, 2], {a: b}, or a word, such as |."""
    if text[:1] in ("|", ">"):  # which in YAML would begin a block
        return text
    try:
        return yaml.load(text, YamlReader)
    except UNREADABLE:
        return text
