"""The report page as HTML, rendered from the Jinja templates, the style sheet and the script in ``templates/``.

Jinja escapes every value; only charts, the style sheet and the script are inserted as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.reporting.charts import mark
from pipeline.reporting.svg import percent

_TEMPLATES = Path(__file__).with_name("templates")
_STATES = ("complete", "pruned", "failed")


def render(datasets: Sequence[Mapping[str, Any]], confidence: float) -> str:
    """Return the page.

    Args:
        datasets: The content of their sections; see `dataset.section`.
        confidence: Confidence level of the intervals.

    Raises:
        jinja2.UndefinedError: A template uses a value that a section lacks.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    content = {
        "datasets": datasets,
        "confidence": percent(confidence, 0),
        "marks": {state: mark(state) for state in _STATES},
        "style": Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "script": Markup((_TEMPLATES / "sort.js").read_text(encoding="utf-8")),
    }
    return environment.get_template("page.html.j2").render(content)
