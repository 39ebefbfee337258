"""The top of a run's page: how it is doing, what can be done with it, its figures, where its round is."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from cutlayer.report.units import format_bytes, format_count, format_number, format_seconds, format_share
from cutlayer.services.dashboard import words
from cutlayer.services.dashboard.live import RunFeed
from cutlayer.services.dashboard.views.frame import Frame
from cutlayer.services.dashboard.views.parts import Tag, Tile, When, button, fill, link, progress
from cutlayer.services.dashboard.views.runs import described
from cutlayer.services.protocol import ENDED


class Head:
    """Title, actions, the sentence about its health, tiles and phases."""

    def __init__(self, frame: Frame, feed: RunFeed) -> None:
        self.frame, self.feed = frame, feed
        self.slow: str | None = None
        view = feed.view
        with Tag("div", classes="top"):
            with Tag("div", classes="grow"):
                Tag("h1", view["id"])
                Tag("p", described(view["experiment"], view["algorithm"]), "muted small")
            self.state = Tag("span", "", "state", role="status")
            if frame.acts:
                self._buttons()
        self.health = Tag("p", "", "health", role="status")
        with Tag("dl", classes="tiles"):
            self.accuracy, self.loss, self.bytes, self.rate, self.time = map(
                Tile, ("Accuracy", "Training loss", "Bytes sent", "Samples per second", "Time")
            )
        with Tag("div", classes="card", style="margin-bottom:14px"):
            with Tag("div", classes="row spread", style="margin-bottom:10px"):
                self.round = Tag("h2", "")
                with Tag("ol", classes="phases", aria_label="Phases of the round"):
                    self.phases = [(key, Tag("li", text)) for key, text in words.PHASES]
                with Tag("span", classes="small muted number"):
                    self.begun = Tag("span", "")
                    self.since = When(None, "for")
            self.bar, self.filled = progress(0, 1, "Rounds that are done")
        self.show()

    def _buttons(self) -> None:
        run = self.feed.run
        with Tag("div", classes="row"):
            self.pause = button("Pause", lambda: self._steer("pause", "The run is paused."))
            self.resume = button("Resume", lambda: self._steer("resume", "The run goes on."), "main")
            self.cancel = button("Cancel", lambda: self.frame.call("(id) => cutlayer.ask(id)", "ask-cancel"), "danger")
            link("Repeat with changes", f"/submit?from={quote(run)}", "button")
        with Tag("dialog", classes="ask", id="ask-cancel", aria_labelledby="ask-title"):
            Tag("h2", "Cancel this run?", id="ask-title")
            Tag("p", f"{run} ends for good; what is under way is lost. Its metrics stay.", style="margin-top:8px")
            with Tag("form", classes="row", method="dialog"):
                Tag("button", "Keep it running", "button", type="submit", autofocus=True)
                yes = Tag("button", "Cancel the run", "button danger", type="submit")
                yes.on("click", lambda _: self._steer("cancel", "The run was cancelled."), args=[])

    async def _steer(self, act: str, said: str) -> None:
        await self.frame.act(lambda: self.frame.hub.source.post("runs", self.feed.run, act), said)
        self.feed.touch("view")

    def show(self) -> None:
        """Show everything as it is now."""
        view, history = self.feed.view, self.feed.history
        state = words.state_of(view)
        self.state.say(state)
        self.state.look(f"state {state}")
        dark = sum(not service["live"] for service in self.feed.system.get("services", ()))
        text, mood = words.health(view, dark, self.slow)
        self.health.say(text)
        self.health.look(f"health {mood}".strip())
        if self.frame.acts:
            ended = view["state"] in ENDED
            self.pause.set(style="display:none" if ended or view["paused"] else None)
            self.resume.set(style=None if view["paused"] else "display:none")
            self.cancel.set(style="display:none" if ended else None)
        best = history.best()
        self.accuracy.show(
            format_share(history.newest(history.accuracy)),
            f"best {format_share(best[0])} in round {best[1]}" if best else "no round scored yet",
        )
        self.loss.show(format_number(history.newest("loss")), f"after round {history.last}" if history.last else "")
        up, down = history.newest("total_bytes_up"), history.newest("total_bytes_down")
        total = None if up is None or down is None else up + down
        self.bytes.show(format_bytes(total), f"{format_bytes(up)} up, {format_bytes(down)} down" if total else "")
        self._speed(view)
        self._phases(view)

    def _speed(self, view: dict[str, Any]) -> None:
        history = self.feed.history
        seconds, samples = history.newest("total_seconds"), history.newest("total_samples")
        last, took = history.newest("samples"), history.newest("seconds")
        rate = format_count(last / took) if last and took else "–"
        self.rate.show(rate, f"{format_count(samples / seconds)} on the average" if samples and seconds else "")
        more = ""
        if seconds and history.last and view["state"] == "running":
            left = (view["rounds"] - history.last) * seconds / history.last
            more = f"about {format_seconds(left)} to go"
        elif seconds and history.last:
            more = f"{format_seconds(seconds / history.last)} a round"
        self.time.show(format_seconds(seconds), more)

    def _phases(self, view: dict[str, Any]) -> None:
        phase = self.feed.phase
        done = self.feed.history.last
        number = view["round"] or 0
        self.round.say(f"Round {number} of {view['rounds']}" if number else f"{view['rounds']} rounds to come")
        fill(self.bar, self.filled, done, view["rounds"], f"{done} of {view['rounds']} rounds are done")
        running = view["state"] == "running" and phase.get("state") in dict(words.PHASES)
        now = phase.get("state") if running else None
        places = [key for key, _ in words.PHASES]
        for place, (key, item) in enumerate(self.phases):
            past = now is not None and place < places.index(str(now))
            item.look("now" if key == now else "past" if past or (number and now is None) else "")
            item.set(aria_current="step" if key == now else None)
        if view["state"] in ENDED:
            self.begun.say("ended ")
            self.since.set(data_as="moment")
            self.since.at(view.get("ended"))
        else:
            self.begun.say("in this phase for " if now else "submitted ")
            self.since.set(data_as="for" if now else "ago")
            self.since.at(phase.get("since") if now else view["created"])
