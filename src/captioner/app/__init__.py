"""The web app: a page in the browser, and the same answers over plain HTTP.

    engine.py     everything that is asked of the model, through one thread; pictures from strangers
    pictures.py   pixels of the collection's pictures, and its map
    pages.py      the pages (Gradio)
    views.py      what the pages show, as HTML; every text is escaped here
    card.py       the page "About": the model's card, from the bundle and its MLflow run
    feedback.py   what people think of captions, as CSV that can be trained on
    guard.py      who may ask what: hosts, paths, headers of answers
    events.py     what an event of the pages may bring
    bodies.py     bodies of requests: size, time and memory; JSON and forms
    protocol.py   connections: headers, chunks, time
    shares.py     what is limited, shared out among clients
    login.py      the password, and how often it may be guessed
    uploads.py    the folder for pictures that were sent to the pages
    scripts.py    the pages' scripts as one file
    server.py     all of that as one ASGI application, and its start

Needs the extra `app` (Gradio). Nothing here asks for anything beyond the machine it runs on.
"""
