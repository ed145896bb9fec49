"""Reading YAML: what is no YAML, and what of it could only be meant otherwise, is told."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which the last would otherwise win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise ValueError(
                        f"the key {key.value!r} stands there twice, again in line {key.start_mark.line + 1}"
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml(text: str) -> Any:
    """The content of YAML text.

    Raises:
        ValueError: If it is none, with a reason in one line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a safe loader
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, KeyError) as error:  # dates and tags that name no value
        raise ValueError(" ".join(str(error).split()).rstrip(".")) from None
