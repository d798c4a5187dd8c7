"""One self-contained HTML file: its head, its looks in both themes, and markdown and code as HTML. Nothing in it is loaded from anywhere."""

import html
import re
from functools import cache
from importlib import resources

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {scripts}; base-uri 'none'; form-action 'none'"
"""What the browser itself refuses: every request to another place, so that a slip in an output cannot load anything."""


@cache
def part(name: str) -> str:
    """A style or a script that lies beside this file."""
    return resources.files("mllandscape.kit").joinpath(name).read_text(encoding="utf-8")


def document(title: str, body: str, style: str = "page.css", script: str = "") -> str:
    """A whole page in English: ``title`` is a text, ``body`` HTML, style and script are names of files, which are written into the page."""
    policy = POLICY.format(scripts="'unsafe-inline'" if script else "'none'")
    head = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{part('colours.css')}{part(style)}</style>",
        "</head>",
        "<body>",
    ]
    return "\n".join([*head, body, f"<script>{part(script)}</script>" if script else "", "</body>", "</html>", ""])


def markdown(source: str) -> str:
    """Markdown as HTML, with code in colours and without marks beside the headings."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    page = re.sub(r'<a class="anchor-link"[^>]*>.*?</a>', "", markdown2html_mistune(source))
    return re.sub(r"<table\b.*?</table>", lambda match: wide(match[0]), page, flags=re.DOTALL)


def coded(text: str) -> str:
    """A line of text, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def wide(table: str, label: str = "Table") -> str:
    """A table that scrolls by itself where the window is narrow, by keyboard too."""
    return f'<div class="wide" tabindex="0" role="group" aria-label="{html.escape(label)}">{table}</div>'


@cache
def _formatter():
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return PythonLexer(), HtmlFormatter(nowrap=True)


def python(source: str) -> str:
    """Python source in colours, for the inside of a <pre>."""
    from pygments import highlight

    return highlight(source, *_formatter())


def plain(source: str) -> str:
    """Markdown as the text that it shows, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markdown(source))).split())
