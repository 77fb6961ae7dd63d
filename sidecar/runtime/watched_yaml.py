"""YAML whose nodes are looked at before they are made: a page of text can stand for any amount of memory."""

from typing import Any

import yaml


class WatchedLoader(yaml.SafeLoader):
    """YAML's own; `look` may raise, and then no more is read."""

    _depth = 0

    def look(self, mark: yaml.Mark, depth: int, *, is_alias: bool) -> None:
        """A node begins here, so many levels below the first."""
        raise NotImplementedError

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.look(event.start_mark, self._depth, is_alias=isinstance(event, yaml.AliasEvent))
        self._depth += 1
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
        finally:
            self._depth -= 1
        return node
