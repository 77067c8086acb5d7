"""The markup of the page.

It stands in a module, not in a template file, so that DVC and every copy of the code see it as they see all code.
Jinja escapes whatever is put in; only pictures come as `Markup`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.reporting.charts import mark
from pipeline.reporting.style import SCRIPT, STYLE
from pipeline.reporting.svg import percent

_MARKUP = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Report: {{ datasets | map(attribute="name") | join(", ") }}</title>
<style>{{ style }}</style>
</head>
<body>
{% macro run(id) %}<a href="http://127.0.0.1:5000/#/runs/{{ id }}"><code>{{ id }}</code></a>{% endmacro %}
{% macro key(kind, shape, name) %}<span class="key"><svg viewBox="-7 -6 14 12" aria-hidden="true">
{%- if shape %}{{ shape }}{% else %}<path class="line {{ kind }}" d="M-7 0H7"></path>{% endif %}</svg>
{{- name }}</span>{% endmacro %}
<nav aria-label="On this page"><div><b>Report</b>
{% for dataset in datasets %}
<a href="#{{ dataset.name }}">{{ dataset.name }}</a>
{% for family in dataset.families %}
<a class="soft" href="#{{ dataset.name }}-{{ family.name }}">{{ family.name }}</a>
{% endfor %}
{% endfor %}
</div></nav>
<main>
{% for dataset in datasets %}
<section aria-labelledby="{{ dataset.name }}">
<h2 id="{{ dataset.name }}">{{ dataset.name }}</h2>
<div class="card">
{% for headline in dataset.headlines %}
<p class="lead">{{ headline }}</p>
{% endfor %}
<div class="tiles">
{% for tile in dataset.tiles %}
<div><span class="soft">{{ tile.name }}</span><b>{{ tile.figure }}</b><span class="soft">{{ tile.told }}</span></div>
{% endfor %}
</div>
</div>
{% for board in dataset.leaderboards %}
<div class="card">
<h3>{{ board.title }}</h3>
<div class="wide"><table>
<thead><tr><th>Family</th>{% for name in board.columns %}<th class="right">{{ name }}</th>{% endfor %}

{% if board.intervals %}<th>{{ confidence }} interval</th><th><span class="unseen">drawn</span></th>{% endif %}

<th class="right">Time</th><th>Registered as</th></tr></thead>
<tbody>
{% for row in board.rows %}
<tr{% if row.champion %} class="best"{% endif %}>
<td><a href="#{{ dataset.name }}-{{ row.family }}">{{ row.family }}</a></td>
{% for cell in row.cells %}<td class="right">{{ cell }}</td>{% endfor %}

{% if board.intervals %}<td>{{ row.interval }}</td><td>{{ row.picture }}</td>{% endif %}

<td class="right">{{ row.seconds }}</td>
<td>{{ row.version }}{% if row.champion %} <span class="badge">★ champion</span>{% endif %}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="soft">{{ board.note }} Time is that of search and training.</p>
</div>
{% endfor %}
<div class="card">
<h3>Data, as the gate saw it</h3>
<p>{{ dataset.gate_told }}{% for name, address in dataset.links %} <a href="{{ address }}">{{ name }}</a>
{%- endfor %}</p>
<hr>
<div class="two">
{% for split in dataset.splits %}
<figure><figcaption><b>{{ split.name }}: images per class</b>{{ split.told }}</figcaption>{{ split.picture }}</figure>
{% endfor %}
</div>
{% if dataset.pictures %}
<hr>
<div class="two">
{% for name, source in dataset.pictures %}<img class="plot" alt="{{ dataset.name }}: {{ name }}" src="{{ source }}">
{% endfor %}
</div>
{% endif %}
<hr>
<details><summary>All {{ dataset.expectations | length }} expectations and what was observed</summary>
<div class="wide"><table><thead><tr><th>Expectation</th><th>Observed</th></tr></thead><tbody>
{% for name, observed in dataset.expectations %}<tr><td>{{ name }}</td><td>{{ observed }}</td></tr>
{% endfor %}
</tbody></table></div></details>
</div>
{% for family in dataset.families %}
<section class="card" aria-labelledby="{{ dataset.name }}-{{ family.name }}">
<h3 id="{{ dataset.name }}-{{ family.name }}">{{ family.name }} <span class="soft">on {{ dataset.name }}</span></h3>
<p class="soft">{{ family.told }} MLflow run {{ run(family.run) }}</p>
<hr>
<div class="two">
{% for curve in family.curves %}
<figure><figcaption><b>{{ curve.name }} by epoch</b>
{%- for name in curve["keys"] %}{{ key("s%d" % loop.index0, "", name) }}{% endfor %}</figcaption>
{{ curve.picture }}</figure>
{% endfor %}
{% if family.picture %}
<figure><figcaption><b>What it makes</b>{{ family.name }}, as it is served, from fixed seeds or test images</figcaption>
<img class="plot" alt="What {{ family.name }} makes" src="{{ family.picture }}"></figure>
{% endif %}
{% if family.errors %}
<figure><figcaption><b>Confusion matrix</b>test images; shaded by share of the actual class
</figcaption>{{ family.errors.heat_map }}</figure>
<figure><figcaption><b>Accuracy by class</b>share of a class’s test images that were labelled right</figcaption>
{{ family.errors.recall }}
{% if family.errors.confused %}
<hr><h4>Most frequent confusions</h4>
<dl>
{% for pair in family.errors.confused %}
<dt>{{ pair.actual }} taken for {{ pair.predicted }}</dt><dd>{{ pair.told }}</dd>
{% endfor %}
</dl>
{% endif %}</figure>
{% endif %}
</div>
<hr>
<h3>Search</h3>
<p class="soft">{{ family.cost }} MLflow run {{ run(family.search_run) }}</p>
<div class="two">
<figure><figcaption><b>{{ family.value }} by trial</b>
{%- for state in ("complete", "pruned", "failed") %}{{ key("", marks[state], state) }}{% endfor %}
{{- key("best", "", "best so far") }}</figcaption>{{ family.trials_picture }}</figure>
<div><h4>Best hyperparameters <span class="soft">trial {{ family.best_trial }}, ringed</span></h4>
<dl>{% for name, value in family.best %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl></div>
</div>
{% if family.pictures %}
<details><summary>More of the search: curves of all trials, importances, hyperparameters, timeline</summary>
<div class="two">
{% for name, source in family.pictures %}
<img class="plot{% if name in ("parallel", "slices") %} whole{% endif %}" src="{{ source }}"
 alt="search of {{ family.name }}: {{ name }}">
{% endfor %}
</div></details>
{% endif %}
<details><summary>All {{ family.trials | length }} trials</summary>
<div class="wide tall" tabindex="0" role="region" aria-label="Trials of {{ family.name }}"><table class="sortable">
<thead><tr>{% for name in family.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for trial in family.trials %}
<tr{% if trial.best %} class="best"{% endif %}>
{%- for cell in trial.cells %}<td data-sort="{{ cell.sort }}">{{ cell.text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div></details>
</section>
{% endfor %}
</section>
{% endfor %}
</main>
<footer>
<p><b>How the figures were made.</b> Search and training see the training split and choose by the validation split; the
candidate is the family with the best validation value of its kind. The test split is read once per model, by evaluate,
which scores the model as it is served. Intervals of accuracies are Wilson’s. A candidate replaces a champion when a
paired test on the same test images says so: McNemar’s for classifiers. A pruned trial’s value is that
of its last epoch before it was stopped.</p>
<p>Links to runs work while <code>make ui</code> is running. This page holds no timestamp: the same figures give the
same page.</p>
</footer>
<script>{{ script }}</script>
</body>
</html>
"""


def render(datasets: Sequence[Mapping[str, Any]], confidence: float) -> str:
    """Return the page; everything but pictures comes out escaped.

    Args:
        datasets: Their sections; see `dataset.section`.
        confidence: Coverage of the intervals.

    Raises:
        jinja2.UndefinedError: The markup asks for something that a section lacks.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    content = {
        "datasets": datasets,
        "confidence": percent(confidence, 0),
        "marks": {state: mark(state) for state in ("complete", "pruned", "failed")},
        "style": Markup(STYLE),
        "script": Markup(SCRIPT),
    }
    return environment.from_string(_MARKUP).render(content) + "\n"
