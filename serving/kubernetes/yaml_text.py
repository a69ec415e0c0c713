"""Writes YAML as a person would: texts of several lines as such, nothing by reference, keys in their order."""

from __future__ import annotations

from typing import Any

import yaml


def to_yaml(value: Any) -> str:
    """Return a value as YAML; a list as the documents of a stream only where its items are objects of Kubernetes."""
    if isinstance(value, list) and all(isinstance(item, dict) and "kind" in item for item in value):
        found: str = yaml.dump_all(value, Dumper=_Dumper, sort_keys=False, width=1_000)
    else:
        found = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1_000)
    return found


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
