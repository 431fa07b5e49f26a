"""A report as one HTML file that needs nothing beside it."""

from collections.abc import Sequence
from html import escape
from string import Template

from lit_modules.commands.compare.figures import Picture
from lit_modules.commands.compare.tables import Table

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 70rem; margin: 0 auto;
         padding: 1rem; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
  p { max-width: 45rem; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
  th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
  th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
  thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
  svg { width: 100%; height: auto; min-width: 34rem; }
  pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .8rem; }
  @media print {
    body { max-width: none; font-size: 10pt; padding: 0; }
    .wide { overflow: visible; } table { font-size: 8pt; } th, td { padding: .15rem .4rem; white-space: normal; }
    section { break-inside: avoid; } svg { min-width: 0; } pre { white-space: pre-wrap; }
  }
</style>
</head>
<body>
<h1>$title</h1>
$sections
<section><details><summary>Settings</summary><pre>$settings</pre></details></section>
</body>
</html>
""")


def html(title: str, settings: str, parts: Sequence[Table | Picture]) -> str:
    """The page."""
    sections = "\n".join(_section(part) for part in parts)
    return PAGE.substitute(title=escape(title), sections=sections, settings=escape(settings))


def _section(part: Table | Picture) -> str:
    content = _table(part) if isinstance(part, Table) else part.svg
    return (
        f"<section>\n<h2>{escape(part.title)}</h2>\n<p>{escape(part.note)}</p>\n"
        f'<div class="wide">{content}</div>\n</section>'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = "\n".join(_line(line) for line in table.rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _line(cells: Sequence[str]) -> str:
    name, *others = (escape(cell) for cell in cells)
    return f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"
