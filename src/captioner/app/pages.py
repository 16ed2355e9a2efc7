"""The pages: Caption, Similar, Search, Explore, About.

Gradio draws the controls and carries the events; what is shown is HTML from `views`, whose buttons
say by their data attributes what was clicked (`click.js`).
"""

import random
from collections.abc import Callable
from pathlib import Path

import fastapi
import gradio as gr
import numpy as np

from captioner import CaptionerError, recommend
from captioner.app import views
from captioner.app.engine import ALTERNATIVES, BEAM, Engine, Seen, Wish
from captioner.app.feedback import Feedback
from captioner.app.pictures import Pictures
from captioner.app.scripts import CLICK, LIVE, MAP
from captioner.bundle import Caption
from captioner.raster import decode

HERE = Path(__file__).parent
TOP = 12  # results of a query
SOME = 6  # pictures of the collection that are offered to begin with
SESSIONS = 200  # whose state is kept, a picture each
KEPT = (300, 3600)  # seconds: how often uploads are cleared away, and at which age
# An event with a picture gets where it lies: Gradio would open it with every reader of Pillow's.
UNDECODED = {"preprocess": False}


def mount(
    app: fastapi.FastAPI,
    engine: Engine | None,
    pictures: Pictures | None,
    missing: str,
    about: Callable[[], str],
    feedback: Feedback | None,
) -> gr.Blocks:
    """Build the pages and put them at / of an application; see `server.build`."""
    with gr.Blocks(title="captioner", analytics_enabled=False, delete_cache=KEPT) as pages:
        gr.HTML("<h1>captioner</h1>", elem_id="title")
        if missing:
            gr.HTML(views.notice(missing))
        if engine is not None:
            _tabs(engine, pictures, about, feedback)
    pages.state_session_capacity = SESSIONS
    pages.has_launched = True  # else Gradio leaves out its check of what files events may name
    pages.queue(max_size=64, default_concurrency_limit=16, api_open=False)
    gr.mount_gradio_app(
        app,
        pages,
        path="",
        footer_links=[],
        run_history=False,
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Base(
            primary_hue=gr.themes.colors.blue,
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        css=(HERE / "app.css").read_text(encoding="utf-8"),
        head='<link rel="icon" href="data:,">',
    )
    return pages


def _tabs(
    engine: Engine,
    pictures: Pictures | None,
    about: Callable[[], str],
    feedback: Feedback | None,
) -> None:
    with gr.Tabs() as tabs:
        with gr.Tab("Caption", id="caption"):
            _caption_page(engine, pictures, feedback)
        if engine.collection is None or not pictures:
            with gr.Tab("Search", id="search"):
                gr.HTML(
                    views.notice(
                        "There is no collection to search in. `dvc repro` makes one of the data "
                        "set; `captioner index add FOLDER --index DIR` one of your own pictures, "
                        "for `captioner app --index DIR`."
                    )
                )
        else:
            with gr.Tab("Similar", id="similar"):
                go = _similar_page(engine, pictures)
            with gr.Tab("Search", id="search"):
                found = _search_page(engine)
            with gr.Tab("Explore", id="explore"):
                shown = _explore_page(engine)
            for source in (found, shown):
                go(source, tabs)
        with gr.Tab("About", id="about") as tab:
            card = gr.HTML(elem_id="card")
            tab.select(about, outputs=card, api_visibility="private")


def _clickable(value: str = "", elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(value, js_on_load=CLICK, elem_id=elem_id)


def _caption_page(engine: Engine, pictures: Pictures | None, feedback: Feedback | None) -> None:
    seen, said = gr.State(None), gr.State([])
    decoding = engine.captioner.decoding
    with gr.Row():
        with gr.Column(min_width=300):
            picture = gr.Image(
                label="Picture",
                type="filepath",
                image_mode=None,
                format="png",
                sources=["upload", "clipboard", "webcam"],
                height=340,
                buttons=[],
                elem_id="picture",
            )
            with gr.Accordion("How to search", open=False):
                number = gr.Slider(1, ALTERNATIVES, ALTERNATIVES, step=1, label="Captions")
                way = gr.Radio(["search", "draw at random"], value="search", label="Way")
                beam = gr.Slider(
                    1,
                    BEAM,
                    min(BEAM, decoding.beam_width),
                    step=1,
                    label="Beam width",
                    info="sentences kept at each word; a new width takes some seconds at first",
                )
                length = gr.Slider(
                    0,
                    2,
                    decoding.length_penalty,
                    step=0.1,
                    label="Length",
                    info="the larger, the longer the sentences",
                )
                top_p = gr.Slider(
                    0.1,
                    1,
                    0.9,
                    step=0.05,
                    label="Random: from the likeliest words that hold this share",
                )
                seed = gr.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="Random: seed")
            with gr.Accordion("Live from the webcam", open=False):
                gr.HTML(
                    "<div class='live'><video muted playsinline hidden></video>"
                    "<p class='said' role='status' aria-live='polite'></p>"
                    "<p class='why rate'></p>"
                    "<button type='button' class='primary'>Start the webcam</button></div>",
                    js_on_load=LIVE,
                    elem_id="live",
                )
        with gr.Column(min_width=300):
            captions = _clickable(
                views.notice("Upload a picture, paste one, or take a snapshot."), "captions"
            )
            looked = gr.HTML(elem_id="looked")
            votes = _vote_row(feedback) if feedback else None
    if pictures:
        gr.HTML("<h2>Or one of the collection</h2>")
        some = _clickable(_grid_of(engine, _some(pictures, 0)), "examples")

        def example(event: gr.EventData) -> np.ndarray | None:
            jpeg = pictures.jpeg(_row(event, pictures))
            return None if jpeg is None else decode(jpeg)

        some.click(example, outputs=picture, api_visibility="private", show_progress="hidden")

    def look(file: dict | None):
        if file is None:
            return None, views.notice("Upload a picture, paste one, or take a snapshot."), ""
        try:
            return engine.read(Path(file["path"]).read_bytes()), "", ""
        except (CaptionerError, OSError) as error:
            return None, views.notice(str(error)), ""

    def tell(seen: Seen | None, number, way, beam, length, top_p, seed):
        if seen is None:
            return [], gr.skip(), ""
        if way == "search":  # None: exactly as the bundle was evaluated, whatever the step
            width = None if beam == decoding.beam_width else beam
            penalty = None if length == decoding.length_penalty else length
            wish = Wish(number, width, penalty)
        else:
            wish = Wish(number, top_p=top_p, seed=seed or 0)
        try:
            found = engine.captions(seen.pixels, wish).result()
        except CaptionerError as error:
            return [], views.notice(str(error)), ""
        words = [engine.captioner.vocabulary.words_of(caption.text) for caption in found]
        return found, views.alternatives(found, words, engine.captioner.has_attention), ""

    def alt(said: list[Caption]):
        return gr.Image(alt_text=said[0].text if said else None)

    def where(seen: Seen | None, said: list[Caption], event: gr.EventData) -> str:
        if seen is None:
            return ""
        chosen, word = _number(event, "caption", len(said)), _number(event, "word", 1000)
        words, weights = engine.looked_at(seen.pixels, said[chosen].text).result()
        if weights is None or word >= len(words):
            return ""
        return views.looked_at(seen.pixels, words, weights, word)

    controls = [number, way, beam, length, top_p, seed]
    quiet = {"api_visibility": "private", "trigger_mode": "always_last"}
    shown = [said, captions, looked]
    picture.change(look, picture, [seen, captions, looked], **UNDECODED, **quiet).then(
        tell, [seen, *controls], shown, **quiet
    ).then(alt, said, picture, show_progress="hidden", **quiet)
    for control in controls:
        control.change(tell, [seen, *controls], shown, **quiet)
    captions.click(where, [seen, said], looked, show_progress="hidden", **quiet)
    if votes:
        good, bad, own, keep, thanks = votes

        def vote(kind: str) -> Callable:
            def kept(seen: Seen | None, said: list[Caption], own: str) -> str:
                if seen is None or not said:
                    return views.notice("Caption a picture first.")
                try:
                    text = own if kind == "written" else said[0].text
                    feedback.keep(seen.pixels, seen.sha256, text, kind)
                except CaptionerError as error:
                    return views.notice(str(error))
                return views.notice(f"Kept in {feedback.folder}. Thank you.")

            return kept

        for button, kind in ((good, "good"), (bad, "bad"), (keep, "written")):
            button.click(vote(kind), [seen, said, own], thanks, **quiet)


def _vote_row(feedback: Feedback):
    with gr.Group(elem_id="feedback"):
        gr.HTML(
            f"<p class='why'>What you say here is kept for later training, with the picture, in "
            f"{views.escape(str(feedback.folder))} on the server.</p>",
            padding=True,
        )
        with gr.Row():
            good = gr.Button("👍 Good", size="sm")
            bad = gr.Button("👎 Bad", size="sm")
        own = gr.Textbox(label="My caption instead", max_length=200)
        keep = gr.Button("Keep my caption", size="sm")
        thanks = gr.HTML()
    return good, bad, own, keep, thanks


def _similar_page(engine: Engine, pictures: Pictures) -> Callable[[gr.HTML, gr.Tabs], None]:
    """Returns what makes a click on another page's picture lead here."""
    query = gr.State(None)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            current = gr.HTML(views.notice("Choose a picture, or upload one."), elem_id="query")
            blend = gr.Slider(
                0,
                1,
                recommend.BLEND,
                step=0.05,
                label="What counts",
                info="0: what it means — 1: how it looks",
                elem_id="blend",
            )
            others = gr.Button("Other pictures to begin with", size="sm", elem_id="others")
            upload = gr.Image(
                label="Your picture",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=200,
                buttons=[],
                elem_id="similar-picture",
            )
        with gr.Column(scale=3, min_width=300):
            results = _clickable(_grid_of(engine, _some(pictures, 0, TOP)), "results")

    def show(query: recommend.Query | None, blend: float):
        if query is None:
            return gr.skip()
        try:
            return _results(engine, engine.similar(query, TOP, blend), "most similar pictures")
        except CaptionerError as error:
            return views.notice(str(error))

    def from_row(blend: float, event: gr.EventData):
        row = _row(event, pictures)
        image_id = engine.collection.pictures["image_id"].iloc[row]
        found = recommend.query_of(engine.collection, image_id)
        return found, views.query(found.caption, f"pictures/{row}.jpg"), show(found, blend)

    def from_file(file: dict | None, blend: float):
        if file is None:
            return gr.skip(), gr.skip(), gr.skip()
        try:
            seen = engine.read(Path(file["path"]).read_bytes())
            found = engine.query(seen)
        except (CaptionerError, OSError) as error:
            return None, views.notice(str(error)), gr.skip()
        return found, views.query(found.caption, views.embedded(seen.pixels)), show(found, blend)

    def begin():
        shown = _grid_of(engine, _some(pictures, random.randrange(2**31), TOP))
        return None, views.notice("Choose a picture, or upload one."), shown

    quiet = {"api_visibility": "private", "trigger_mode": "always_last"}
    all_of_it = [query, current, results]
    results.click(from_row, blend, all_of_it, show_progress="hidden", **quiet)
    upload.change(from_file, [upload, blend], all_of_it, **UNDECODED, **quiet)
    blend.change(show, [query, blend], results, show_progress="hidden", **quiet)
    others.click(begin, outputs=all_of_it, show_progress="hidden", **quiet)

    def lead_here(source: gr.HTML, tabs: gr.Tabs) -> None:
        def go(blend: float, event: gr.EventData):
            return gr.Tabs(selected="similar"), *from_row(blend, event)

        source.click(go, blend, [tabs, *all_of_it], show_progress="hidden", **quiet)

    return lead_here


def _search_page(engine: Engine) -> gr.HTML:
    sentence = gr.Textbox(
        label="What is to be seen",
        placeholder="a large red circle above a green star",
        max_length=300,
        elem_id="sentence",
    )
    read = gr.HTML(elem_id="read")
    results = _clickable("", "found")
    words_of = engine.captioner.vocabulary.words_of

    def search(text: str):
        if not text.strip():
            return "", ""
        try:
            found, unknown = engine.search(text, TOP)
        except CaptionerError as error:
            return views.notice(str(error)), ""
        if not found:
            return views.sentence(words_of(text), unknown) + views.notice(
                "None of these words is known: try words of the training captions."
            ), ""
        return views.sentence(words_of(text), unknown), _results(
            engine, found, "pictures for the sentence"
        )

    quiet = {"api_visibility": "private", "trigger_mode": "always_last"}
    sentence.input(search, sentence, [read, results], show_progress="hidden", **quiet)
    sentence.submit(search, sentence, [read, results], show_progress="hidden", **quiet)
    return results


def _explore_page(engine: Engine) -> gr.HTML:
    shown = gr.HTML(
        "<div class='map'><canvas tabindex='0' role='application' aria-label='Map of the "
        "collection: arrow keys go from picture to picture, plus and minus zoom, Enter shows "
        "similar ones'></canvas><p class='hover' role='status' aria-live='polite'></p></div>"
        "<p class='why'>Pictures that mean the same lie close together. Drag to move, turn the "
        "wheel or pinch to zoom, click for similar ones.</p>",
        js_on_load=MAP,
        elem_id="map",
    )
    gr.HTML("<h2>Words like a word</h2>")
    word = gr.Textbox(label="Word", max_length=60, elem_id="word")
    found = _clickable("", "neighbours")

    def like(text: str) -> str:
        text = text.strip().lower()
        if not text:
            return ""
        try:
            return views.neighbours(recommend.neighbours(engine.collection, text, 10))
        except CaptionerError as error:
            return views.notice(str(error))

    def chosen(event: gr.EventData):
        text = str(getattr(event, "word", ""))[:60]
        return text, like(text)

    quiet = {"api_visibility": "private", "trigger_mode": "always_last", "show_progress": "hidden"}
    word.input(like, word, found, **quiet)
    found.click(chosen, outputs=[word, found], **quiet)
    return shown


def _results(engine: Engine, results: list[recommend.Result], label: str) -> str:
    rows = engine.rows_of([result.image_id for result in results])
    return views.grid(results, rows, label)


def _grid_of(engine: Engine, rows: list[int]) -> str:
    """Pictures of the collection without a query."""
    table = engine.collection.pictures.iloc[rows]
    results = [
        recommend.Result(image_id, caption, 0.0, None, 0.0, [])
        for image_id, caption in zip(table["image_id"], table["caption"], strict=True)
    ]
    return views.grid(results, rows, "pictures of the collection")


def _some(pictures: Pictures, seed: int, number: int = SOME) -> list[int]:
    return sorted(random.Random(seed).sample(range(len(pictures)), min(number, len(pictures))))


def _row(event: gr.EventData, pictures: Pictures) -> int:
    return _number(event, "row", len(pictures))


def _number(event: gr.EventData, name: str, end: int) -> int:
    """A whole number below `end` out of an event: the browser may send anything."""
    text = str(getattr(event, name, ""))
    if not text.isdecimal() or len(text) > 9 or int(text) >= end:
        raise gr.Error("That is not there any more.", print_exception=False)
    return int(text)
