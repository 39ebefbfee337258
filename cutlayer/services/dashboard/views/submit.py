"""Begin a run: write or upload an experiment, see at its line what is wrong, begin."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import yaml

from cutlayer.services.dashboard.elements.editor import Editor
from cutlayer.services.dashboard.views.frame import Frame
from cutlayer.services.dashboard.views.parts import Tag, button, link, nothing
from cutlayer.services.errors import ServiceError, Unprocessable

EXAMPLE = """\
# An experiment.  Every key has a default; a name alone or a mapping says which and how.
algorithm: splitfed_v1
model: {name: mlp, hidden: [64, 64]}
data: digits
partition: {name: dirichlet, alpha: 0.5}
clients: {count: 3}
rounds: 20
batch_size: 32
optimizer: {name: adam, lr: 0.001}
seed: 0
"""


def as_text(experiment: dict[str, Any]) -> str:
    """Return an experiment as YAML, without what is not set and what services decide."""
    kept = {k: _set(v) for k, v in experiment.items() if v is not None and k not in ("engine", "out")}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def _set(value: Any) -> Any:
    return {k: _set(v) for k, v in value.items() if v not in (None, {})} if isinstance(value, dict) else value


class SubmitPage:
    """The page."""

    def __init__(self, frame: Frame, text: str, repeated: str | None) -> None:
        self.frame, self.text, self.repeated = frame, text, repeated
        self.good = False

    def build(self) -> None:
        with Tag("div", classes="top"), Tag("div", classes="grow"):
            Tag("h1", "New run")
            said = (
                f"A copy of {self.repeated}: change what should be different."
                if self.repeated
                else ("It trains on the clients that are connected, as soon as enough of them are there.")
            )
            Tag("p", said, "muted small")
        with Tag("div", classes="grid"):
            with Tag("section", classes="card w8", aria_label="Experiment"):
                with Tag("header"):
                    Tag("h2", "Experiment")
                    with Tag("div", classes="tools"):
                        file = Tag("input", type="file", id="file", accept=".yaml,.yml,text/yaml", tabindex=-1)
                        file.classes("visually-hidden").on("change", js_handler="(e) => cutlayer.editor.take(e.target)")
                        file.set(aria_label="Experiment file")
                        upload = button("Upload a file", classes="quiet")
                        upload.on("click", js_handler="() => document.getElementById('file').click()")
                self.editor = Editor(self.text, self._changed)
            with Tag("section", classes="card w4", aria_label="Check"):
                with Tag("header"):
                    Tag("h2", "Check")
                self.verdict = Tag("p", "Checking…", id="verdict", role="status")
                self.facts = Tag("dl", classes="facts", style="margin-top:14px")
                with Tag("div", classes="row", style="margin-top:18px"):
                    self.begin = button("Begin the run", self._begin, "main", disabled=True)
                    link("Back to the runs", "/runs", "button quiet")

    async def check(self) -> None:
        """Ask the backend what it thinks of the text."""
        text = self.text
        try:
            found = await self.frame.hub.source.post("runs", "validate", body={"yaml": text})
        except Unprocessable as error:
            if text == self.text:
                self._wrong(error)
            return
        except ServiceError as error:
            self.good = False
            self.begin.set(disabled=True)
            self.verdict.say(f"It cannot be checked now: {error}")
            self.verdict.look("error")
            return
        if text == self.text:
            self._right(found["experiment"])

    async def _changed(self, text: str) -> None:
        self.text = text
        await self.check()

    def _wrong(self, error: ServiceError) -> None:
        details = getattr(error, "details", {})
        line = details.get("line")
        self.good = False
        self.editor.point_at(line)
        self.verdict.say(f"Line {line}: {error}" if line else str(error))
        self.verdict.look("error")
        self.begin.set(disabled=True)
        self.facts.clear()

    def _right(self, experiment: dict[str, Any]) -> None:
        self.good = True
        self.editor.point_at(None)
        self.verdict.say("This experiment is valid.")
        self.verdict.look("")
        self.begin.set(disabled=None)
        self.facts.clear()
        with self.facts:
            for name, value in _facts(experiment):
                Tag("dt", name)
                Tag("dd", value)

    async def _begin(self) -> None:
        if not self.good:
            return
        self.begin.set(disabled=True)
        try:
            created = await self.frame.hub.source.post("runs", body={"yaml": self.text})
        except ServiceError as error:
            self.frame.note(f"The run did not begin: {error}")
            self.begin.set(disabled=None)
            return
        self.frame.go(f"/runs/{quote(created['id'])}")


def _facts(experiment: dict[str, Any]) -> list[tuple[str, str]]:
    def name(key: str) -> str:
        found = experiment.get(key)
        return str(found.get("name", "")) if isinstance(found, dict) else str(found)

    clients = experiment.get("clients") or {}
    return [
        ("Algorithm", name("algorithm")),
        ("Model", name("model")),
        ("Data", name("data")),
        ("Clients", str(clients.get("count", "?"))),
        ("Rounds", str(experiment.get("rounds", "?"))),
        ("Batch size", str(experiment.get("batch_size", "?"))),
        ("Codec", name("codec")),
    ]


async def build(frame: Frame, repeated: str | None) -> None:
    """Build the page; ``repeated`` is the run to begin with.  Raises NotFound where there is none."""
    if not frame.acts:
        with Tag("div", classes="card", style="margin-top:24px"):
            Tag("h1", "New run", "visually-hidden")
            nothing("A viewer cannot begin a run", "Sign in with an operator's token, or ask an operator.")
        return
    text = EXAMPLE
    if repeated:
        text = as_text((await frame.hub.source.get("runs", repeated))["experiment"])
    page = SubmitPage(frame, text, repeated)
    page.build()
    await page.check()
