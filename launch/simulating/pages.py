"""A report said once and written twice: as Markdown, and as one HTML file without anything outside of it.

``Page``  headings, paragraphs, tables and pictures in order
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...envs.markdown import table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .5rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: nowrap; }
img { max-width: 100%; }
code { background: #f2f2f2; padding: 0 .2rem; }
"""


@dataclass
class Page:
    """A report.

    Attributes:
        title: Heading of all.
    """

    title: str
    _blocks: list[tuple[str, Any]] = field(default_factory=list)

    def heading(self, words: str) -> None:
        self._blocks.append(("heading", words))

    def say(self, words: str) -> None:
        """A paragraph; ``code`` and **bold** are marked as in Markdown."""
        self._blocks.append(("words", words))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._blocks.append(("table", (head, rows)))

    def picture(self, path: str, caption: str) -> None:
        """A PNG below the report's folder."""
        self._blocks.append(("picture", (path, caption)))

    def markdown(self) -> str:
        lines = [f"# {self.title}"]
        for kind, block in self._blocks:
            if kind == "heading":
                lines.append(f"## {block}")
            elif kind == "table":
                lines.append(table(*block))
            elif kind == "picture":
                path, caption = block
                lines.append(f"![{caption}]({path})")
            else:
                lines.append(str(block))
        return "\n\n".join(lines) + "\n"

    def html(self, folder: Path) -> str:
        """One document; pictures below ``folder`` stand in it."""
        parts = [f"<h1>{html.escape(self.title)}</h1>"]
        for kind, block in self._blocks:
            if kind == "heading":
                parts.append(f"<h2>{_inline(str(block))}</h2>")
            elif kind == "table":
                head, rows = block
                cells = ["".join(f"<td>{_inline(cell)}</td>" for cell in row) for row in rows]
                heads = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
                body = "".join(f"<tr>{row}</tr>\n" for row in cells)
                parts.append(f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>")
            elif kind == "picture":
                path, caption = block
                data = base64.b64encode((folder / path).read_bytes()).decode()
                parts.append(f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">')
            else:
                parts.append(f"<p>{_inline(str(block))}</p>")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
            + "\n".join(parts)
            + "\n</body></html>\n"
        )


def _inline(words: str) -> str:
    shown = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(words, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", shown)
