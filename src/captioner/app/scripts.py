"""The scripts of the pages as one file, so that the browser compiles no text to a program.

Gradio's component HTML makes functions of its template and of `js_on_load` with `Function(...)`,
for which a content security policy would have to allow `unsafe-eval`. Here `Function` gives back
functions that stand in a file of the server, and none else. Another version of Gradio may ask for
others: the browser's console then names them.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
CLICK, LIVE, MAP = (
    (HERE / name).read_text(encoding="utf-8") for name in ("click.js", "live.js", "map.js")
)
PLACE = b"<head>"
TAG = b'<script src="./scripts.js"></script>'

# What the component has where nothing else is said: the template `${value}`, as Handlebars and
# then JavaScript read it, no template for CSS, and clicks that are handed on.
OTHERS = r"""
  ['  return "${value}";\n', () => () => '${value}'],
  ['  return "";\n', () => () => ''],
  ['return `${value}`;', names => (...values) => `${values[names.indexOf('value')]}`],
  ['return ``;', () => () => ''],
  ["element.addEventListener('click', function() { trigger('click') });",
   () => (element, trigger) => element.addEventListener('click', () => trigger('click'))],
"""
REST = r"""
]);
const made = (target, self, words) => {
  const names = words.map(String), text = names.pop();
  if (!known.has(text)) throw new EvalError(`no such function: ${text.slice(0, 200)}`);
  return known.get(text)(names);
};
const construct = (target, words) => made(target, null, words);
window.Function = new Proxy(Function, {apply: made, construct});
"""


def scripts() -> str:
    """The file."""
    own = "".join(
        f"[{json.dumps(text)}, () => (element, trigger, props, server, upload, watch) => {{\n"
        f"{text}\n}}],\n"
        for text in (CLICK, LIVE, MAP)
    )
    return f"'use strict';\nconst known = new Map([\n{own}{OTHERS}{REST}"
