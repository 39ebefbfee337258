"""What a run does next, as a table: no database, no clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cutlayer.recipes import get
from cutlayer.services.backend.lifecycle import due, following
from cutlayer.services.backend.picture import (
    Choose,
    Close,
    Create,
    Drop,
    Enter,
    Finish,
    Job,
    Learn,
    Member,
    Move,
    Open,
    Pause,
    Picture,
    Refuse,
    Requeue,
    Resume,
    Round,
    Seat,
    Terms,
    Welcome,
)

DONE = {"samples": 10, "loss_sum": 5.0}
SAID = {"samples": 7, "test_samples": 2, "classes": 10, "inputs": [{"shape": [64], "dtype": "float32"}]}
EXAMPLE = {"classes": 10, "class_names": None, "inputs": [{"shape": [64], "dtype": "float32"}]}
SCORE = {"count": 10, "correct": 9, "loss": 1.0}


def terms(algorithm: str = "splitfed_v1", **keys: Any) -> Terms:
    return Terms(**{"recipe": get(algorithm), "rounds": 2, "count": 3, "minimum": 3, **keys})


def members(*away: int, m: int = 3) -> tuple[Member, ...]:
    return tuple(Member(n, f"id{n}", f"client-{n}", n not in away, 10) for n in range(m))


def round_(state: Any = "training", number: int = 1, order: tuple[int, ...] = (0, 1, 2), **keys: Any) -> Round:
    return Round(number, state, order, **keys)


def train(*states: Any, first: int = 0, **keys: Any) -> tuple[Job, ...]:
    return tuple(
        Job("train", f"client:id{n}", state, n, DONE if state == "done" else {}, **keys)
        for n, state in enumerate(states, first)
    )


def running(algorithm: str = "splitfed_v1", *, round: Round | None = None, **keys: Any) -> Picture:
    here = {"members": members(), "example": EXAMPLE, "now": 100.0, "terms": terms(algorithm), **keys}
    return Picture("run", "running", round=round or round_(), **here)


def kinds(steps: list[Any]) -> list[str]:
    return [f"{s.kind}@{s.target}" for s in steps if isinstance(s, Create)]


class TestBeforeTheFirstRound:
    def test_it_waits_for_the_minimum(self) -> None:
        queued = Picture("run", "queued", terms(), 0.0)
        assert following(queued) == []
        assert following(replace(queued, candidates=("x", "y"))) == []

    def test_the_first_by_name_take_part(self) -> None:
        queued = Picture("run", "queued", terms(), 0.0, candidates=("w", "x", "y", "z"))
        assert following(queued) == [Choose(("w", "x", "y")), Enter("preparing")]
        fewer = replace(queued, terms=terms(minimum=1), candidates=("w",))
        assert following(fewer) == [Choose(("w",)), Enter("preparing")]

    def test_every_client_prepares(self) -> None:
        found = following(Picture("run", "preparing", terms(), 0.0, members=members()))
        assert kinds(found) == [f"prepare@client:id{n}" for n in range(3)]

    def _prepared(self, *results: dict[str, Any], **keys: Any) -> Picture:
        jobs = tuple(Job("prepare", f"client:id{n}", "done", n, result) for n, result in enumerate(results))
        here = {"members": members(), **keys}
        return Picture("run", "preparing", terms(), 0.0, jobs=jobs, **here)

    def test_what_they_say_is_learnt_if_it_agrees(self) -> None:
        (learn,) = following(self._prepared(SAID, SAID, SAID))
        assert isinstance(learn, Learn)
        assert learn.samples == ((7, 2),) * 3
        assert learn.example["classes"] == 10

    @pytest.mark.parametrize(
        ("other", "sentence"),
        [
            ({"classes": 2}, "all clients must have the same classes: client-0 has 10, client-2 has 2"),
            (
                {"inputs": [{"shape": [3, 8, 8], "dtype": "uint8"}]},
                "all clients must have the same inputs: client-0 has 64 float32, client-2 has 3×8×8 uint8",
            ),
        ],
    )
    def test_clients_that_do_not_fit_together_end_the_run(self, other: dict[str, Any], sentence: str) -> None:
        assert following(self._prepared(SAID, SAID, {**SAID, **other})) == [Enter("failed", sentence)]

    @pytest.mark.parametrize(("algorithm", "servers"), [("vanilla", ["split", "fed"]), ("fedavg", ["fed"])])
    def test_servers_set_up_next(self, algorithm: str, servers: list[str]) -> None:
        picture = replace(self._prepared(SAID, SAID, SAID), example=EXAMPLE, terms=terms(algorithm))
        assert kinds(following(picture)) == [f"setup@{server}" for server in servers]
        jobs = tuple(Job("setup", server, "done") for server in servers)
        assert following(replace(picture, jobs=picture.jobs + jobs))[0] == Enter("running")

    def test_a_client_that_cannot_prepare_ends_the_run(self) -> None:
        picture = self._prepared(SAID)
        broken = Job("prepare", "client:id1", "failed", 1, error="no data here")
        sentence = "prepare failed at client-1: no data here"
        assert following(replace(picture, jobs=(*picture.jobs, broken))) == [Enter("failed", sentence)]
        again = replace(broken, retryable=True)
        assert following(replace(picture, jobs=(*picture.jobs, again))) == [Pause("failure", sentence)]


class TestPlacesBeforeTraining:
    def _preparing(self, *states: Any, away: tuple[int, ...] = (), **keys: Any) -> Picture:
        jobs = tuple(Job("prepare", f"client:id{n}", s, n, since=10.0) for n, s in enumerate(states))
        return Picture("run", "preparing", keys.pop("terms", terms()), 10.0, members=members(*away), jobs=jobs, **keys)

    def test_who_is_away_is_replaced_by_the_first_that_fits(self) -> None:
        for state in ("leased", "done"):
            picture = self._preparing("done", state, "leased", away=(1,), candidates=("x", "y"))
            assert following(picture) == [Seat(1, "x", "client-1 is away")]

    def test_without_anybody_else_the_run_is_queued_again(self) -> None:
        picture = self._preparing("done", "leased", "leased", away=(1, 2), require={"country": "nl"})
        sentence = (
            "client-1, client-2 went away before training began, and nobody who fits is free: the run begins when 3 "
            "clients with country=nl are there"
        )
        assert following(picture) == [Requeue(sentence)]
        one = replace(picture, candidates=("x",))
        assert following(one) == [Seat(1, "x", "client-1 is away")]

    def test_who_is_late_is_replaced_where_there_is_somebody(self) -> None:
        picture = self._preparing("done", "leased", "done", terms=terms(deadline=30.0), candidates=("x",))
        assert following(picture) == []
        assert due(picture) == 40.0
        late = replace(picture, now=40.0)
        assert following(late) == [Seat(1, "x", "client-1 did not prepare before the deadline")]
        assert following(replace(late, candidates=())) == []
        assert due(late) is None

    def test_once_all_have_prepared_places_are_kept(self) -> None:
        picture = self._preparing("done", "done", "done", away=(1,), candidates=("x",), example=EXAMPLE)
        assert kinds(following(picture)) == ["setup@split", "setup@fed"]

    def test_only_who_has_a_place_anew_prepares(self) -> None:
        picture = self._preparing("done", "done", "done")
        found = following(replace(picture, jobs=(picture.jobs[0], picture.jobs[2])))
        assert kinds(found) == ["prepare@client:id1"]


class TestJoining:
    def _running(self, *new: Any, **keys: Any) -> Picture:
        """Two clients train; ``new`` are those that came later: (number, state of what they prepare, its result)."""
        later = tuple(Member(n, f"id{n}", f"client-{n}") for n, _, _ in new)
        jobs = tuple(Job("prepare", f"client:id{n}", state, n, result) for n, state, result in new if state)
        here = {
            "terms": terms(**{"join": True, "minimum": 2, "count": 4, **keys.pop("of", {})}),
            "round": round_(order=(0, 1)),
        }
        return running(**{**here, "members": members(m=2) + later, "jobs": train("leased", "leased") + jobs, **keys})

    def test_free_numbers_are_given_to_who_comes(self) -> None:
        assert following(self._running(candidates=("x", "y", "z"))) == [Seat(2, "x"), Seat(3, "y")]
        found = following(self._running((2, None, {}), candidates=("y",)))
        assert found == [Create("prepare", "client:id2", {"run": "run", "client": 2, "clients": 4}, 2, 0)]
        assert following(self._running((3, "leased", {}), candidates=("y",))) == [Seat(2, "y")]

    def test_without_join_and_in_the_last_round_nobody_comes(self) -> None:
        assert following(self._running(candidates=("x",), of={"join": False})) == []
        assert following(self._running(candidates=("x",), round=round_(order=(0, 1), number=2))) == []

    def test_who_has_prepared_is_part_of_the_next_round(self) -> None:
        assert following(self._running((2, "done", SAID))) == [Welcome(2, 7, 2)]
        done = self._running(round=round_("done", order=(0, 1)), jobs=())
        assert following(done) == [Open(2, (0, 1))]
        unready = replace(done, members=(*done.members, Member(2, "id2", "client-2")))
        waiting = (Job("prepare", "client:id2", "waiting", 2),)
        assert following(replace(unready, jobs=waiting)) == [Open(2, (0, 1))]
        ready = replace(done, members=(*done.members, Member(3, "id3", "client-3", samples=5)))
        assert following(ready) == [Open(2, (0, 1, 3))]

    def test_who_does_not_fit_is_refused_and_not_asked_again(self) -> None:
        found = following(self._running((2, "done", {**SAID, "classes": 3})))
        assert found == [Refuse(2, "client-2 has other classes than the clients of this run")]
        failed = self._running((2, "failed", {}))
        assert following(failed) == [Refuse(2, "client-2 cannot prepare: None")]
        gone = replace(failed, members=members(m=2), candidates=("id2", "x"))
        assert following(gone) == [Seat(2, "x")]

    def test_only_who_has_not_prepared_loses_its_number(self) -> None:
        picture = self._running((2, "leased", {}), candidates=("x",), of={"count": 3})
        assert following(picture) == []
        away = replace(picture, members=(*members(0, m=2), Member(2, "id2", "client-2", here=False)))
        assert following(away) == [Seat(2, "x", "client-2 is away")]

    def test_only_who_has_prepared_is_evaluated(self) -> None:
        jobs = (*train("done", "done"), Job("finish", "split", "done"), Job("aggregate", "fed", "done"))
        closing = self._running(round=round_("closing", order=(0, 1)), jobs=jobs)
        new = Job("prepare", "client:id2", "leased", 2)
        found = following(replace(closing, members=(*closing.members, Member(2, "id2", "client-2")), jobs=(*jobs, new)))
        assert kinds(found) == ["evaluate@client:id0", "evaluate@client:id1", "score@split"]


class TestWhoTrainsWhen:
    @pytest.mark.parametrize("algorithm", ["splitfed_v1", "file_sync", "psl", "fedavg", "cse_fsl"])
    def test_all_at_once(self, algorithm: str) -> None:
        assert kinds(following(running(algorithm))) == [f"train@client:id{n}" for n in range(3)]

    @pytest.mark.parametrize("algorithm", ["vanilla", "ushaped", "splitfed_v2"])
    def test_one_after_another(self, algorithm: str) -> None:
        order = round_(order=(2, 0, 1))
        assert kinds(following(running(algorithm, round=order))) == ["train@client:id2"]
        for state in ("waiting", "leased"):
            assert following(running(algorithm, round=order, jobs=train(state, first=2))) == []
        assert kinds(following(running(algorithm, round=order, jobs=train("done", first=2)))) == ["train@client:id0"]

    def test_in_a_relay_the_one_before_gives(self) -> None:
        def giver(**keys: Any) -> Any:
            (step,) = following(running("vanilla", **keys))
            assert isinstance(step, Create)
            return step.payload["giver"]

        assert giver() is None, "the first client of the first round begins with what the run begins with"
        assert giver(jobs=train("done")) == 0
        assert giver(holder=2) == 2
        assert giver(holder=0) is None, "it has the parts already"
        away = Job("end", "split", "done", 0)
        assert giver(jobs=(*train("dropped"), away), holder=2) == 2, "the dropped give nothing"

    def test_only_relays_hand_on(self) -> None:
        found = following(running("splitfed_v2", jobs=train("done"), holder=2))
        assert [s.payload["giver"] for s in found if isinstance(s, Create)] == [None]

    def test_a_round_that_is_trained_closes(self) -> None:
        assert following(running(jobs=train("done", "done", "done"))) == [Move("closing")]
        relay = running("vanilla", round=round_(order=(1, 2, 0)), jobs=train("done", "done", "done"))
        assert following(relay) == [Move("closing", holder=0)]


class TestImperfectClients:
    late = round_(due=50.0)
    half = terms(quorum=0.5, deadline=10.0)

    @pytest.mark.parametrize("due", [None, 200.0, 50.0])
    def test_with_the_default_quorum_nobody_is_dropped(self, due: float | None) -> None:
        picture = running(round=round_(due=due), members=members(2), jobs=train("done", "done", "waiting"))
        found = following(picture)
        assert not [s for s in found if isinstance(s, Drop)]
        assert [type(s) for s in found] == ([Pause] if due == 50.0 else []), "past the deadline it says that it waits"

    def test_the_late_are_waited_for_while_they_work(self) -> None:
        assert following(running(round=self.late, jobs=train("done", "done", "leased"))) == []

    def test_who_is_away_is_dropped_once_the_quorum_is_done(self) -> None:
        away = {"terms": self.half, "members": members(2)}
        assert following(running(jobs=train("done", "leased", "waiting"), **away)) == []
        assert following(running(jobs=train("done", "done", "waiting"), **away)) == [
            Drop("train", 2, "client-2 is away")
        ]

    def test_who_is_late_is_dropped_once_the_quorum_is_done(self) -> None:
        jobs = train("done", "done", "leased")
        assert following(running(jobs=jobs, terms=self.half, round=round_(due=200.0))) == []
        (drop,) = following(running(jobs=jobs, terms=self.half, round=self.late))
        assert drop == Drop("train", 2, "client-2 did not finish before the deadline")

    def test_a_relay_skips_the_dead(self) -> None:
        dead = {"members": members(0), "jobs": train("waiting")}
        assert following(running("vanilla", **dead)) == []
        two_of_three = replace(self.half, recipe=get("vanilla"), quorum=0.6)
        assert following(running(**{"terms": two_of_three, **dead})) == [Drop("train", 0, "client-0 is away")]
        both = running(terms=two_of_three, members=members(0, 1), jobs=train("waiting"))
        assert following(both) == [], "with the last one alone it waits"
        assert [type(s) for s in following(replace(both, round=self.late))] == [Pause]

    @pytest.mark.parametrize("algorithm", ["file_sync", "psl", "sglr"])
    def test_where_clients_wait_for_each_other_nobody_waits_for_the_dead(self, algorithm: str) -> None:
        """None of the others can be done before it: that they are here is enough."""
        jobs = train("leased", "leased", "leased")
        two_of_three = replace(self.half, recipe=get(algorithm), quorum=0.6)
        dead = running(terms=two_of_three, members=members(1), jobs=jobs)
        assert following(dead) == [Drop("train", 1, "client-1 is away")]
        assert following(replace(dead, members=members(1, 2))) == []
        assert following(replace(dead, terms=replace(two_of_three, quorum=1.0))) == []

    def test_of_those_who_make_steps_together_the_slowest_is_late(self) -> None:
        jobs = tuple(
            replace(job, batches=n) for job, n in zip(train("leased", "leased", "leased"), (5, 5, 4), strict=True)
        )
        slow = running(terms=replace(self.half, recipe=get("file_sync")), jobs=jobs, round=self.late)
        assert following(slow) == [Drop("train", 2, "client-2 did not finish before the deadline")]

    def test_the_dropped_get_an_end_mark_before_the_round_goes_on(self) -> None:
        jobs = train("dropped")
        assert kinds(following(running("vanilla", jobs=jobs))) == ["end@split"]
        assert following(running("vanilla", jobs=(*jobs, Job("end", "split", "leased", 0)))) == []
        assert kinds(following(running("vanilla", jobs=(*jobs, Job("end", "split", "done", 0))))) == [
            "train@client:id1"
        ]
        assert kinds(following(running("fedavg", jobs=train("dropped", "done", "leased")))) == []

    def test_who_failed_is_dropped_if_enough_remain(self) -> None:
        jobs = train("leased", "failed", "leased", error="out of memory")
        assert following(running(jobs=jobs, terms=self.half)) == [Drop("train", 1, "client-1 failed: out of memory")]
        (pause,) = following(running(jobs=jobs))
        assert isinstance(pause, Pause)
        assert pause.cause == "quorum"
        assert "out of memory" in pause.reason

    def test_a_run_that_waits_for_clients_goes_on_when_they_are_back(self) -> None:
        waiting = running(cause="quorum", members=members(1), jobs=train("done", "waiting", "done"), round=self.late)
        assert following(waiting) == []
        assert following(replace(waiting, members=members())) == [Resume()]
        failed = replace(waiting, members=members(), jobs=train("done", "failed", "done"))
        assert following(failed) == [], "an operator lets it try again"

    @pytest.mark.parametrize("cause", ["operator", "failure"])
    def test_other_pauses_end_by_an_operator(self, cause: Any) -> None:
        assert following(running(cause=cause, jobs=train("done", "done", "done"))) == []

    @pytest.mark.parametrize(("quorum", "planned", "needed"), [(1.0, 3, 3), (0.5, 5, 3), (0.6, 5, 3), (0.01, 5, 1)])
    def test_the_quorum_is_rounded_up(self, quorum: float, planned: int, needed: int) -> None:
        assert terms(quorum=quorum).needed(planned) == needed

    def test_when_to_look_again(self) -> None:
        assert due(running(round=round_(due=200.0))) == 200.0
        assert due(running(round=round_(due=50.0))) is None, "it has passed; something must happen now"
        assert due(running(round=round_(due=200.0), cause="operator")) is None
        assert due(running(round=round_("closing", due=200.0))) is None


class TestTheEndOfARound:
    def closing(self, *jobs: Job, algorithm: str = "splitfed_v1", **keys: Any) -> Picture:
        return running(algorithm, round=round_("closing"), jobs=(*train("done", "dropped", "done"), *jobs), **keys)

    def test_split_finishes_before_fed_aggregates(self) -> None:
        (finish,) = following(self.closing())
        assert kinds([finish]) == ["finish@split"]
        assert isinstance(finish, Create)
        assert finish.payload["clients"] == [0, 2], "only those that finished"
        assert following(self.closing(Job("finish", "split", "leased"))) == []
        (aggregate,) = following(self.closing(Job("finish", "split", "done")))
        assert isinstance(aggregate, Create)
        assert kinds([aggregate]) == ["aggregate@fed"]
        assert aggregate.payload["samples"] == [10, 10]

    def test_without_a_split_server_only_fed(self) -> None:
        assert kinds(following(self.closing(algorithm="fedavg"))) == ["aggregate@fed"]

    def test_everyone_who_is_there_evaluates(self) -> None:
        ends = (Job("finish", "split", "done"), Job("aggregate", "fed", "done"))
        found = following(self.closing(*ends, members=members(1)))
        assert isinstance(found[0], Move)
        assert kinds(found) == ["evaluate@client:id0", "evaluate@client:id2", "score@split"]
        fed = following(self.closing(ends[1], algorithm="fedavg"))
        assert kinds(fed)[-1] == "score@fed"

    def test_a_round_without_evaluation_ends_at_once(self) -> None:
        ends = (Job("finish", "split", "done"), Job("aggregate", "fed", "done"))
        (close,) = following(self.closing(*ends, terms=terms(evaluate_every=2)))
        assert isinstance(close, Close)
        assert close.metrics["test_accuracy"] is None
        assert close.metrics["dropped"] == [1]

    def evaluating(self, *jobs: Job, **keys: Any) -> list[Any]:
        keys = {"round": round_("evaluating", started=10.0, trained=40.0, due=keys.pop("due", None)), **keys}
        return following(running(jobs=(*train("done", "done", "done"), *jobs), **keys))

    def evaluate(self, number: int, state: Any = "done") -> Job:
        return Job("evaluate", f"client:id{number}", state, number, SCORE if state == "done" else {})

    def test_who_does_not_answer_is_left_out(self) -> None:
        score = Job("score", "split", "done", result={"available": False})
        waiting = (self.evaluate(0), self.evaluate(1, "leased"), self.evaluate(2, "failed"), score)
        assert self.evaluating(*waiting) == []
        assert [type(s) for s in self.evaluating(*waiting, due=50.0)] == [Drop]
        assert [type(s) for s in self.evaluating(*waiting, members=members(1))] == [Drop]
        (close,) = self.evaluating(self.evaluate(0), self.evaluate(1, "dropped"), self.evaluate(2, "failed"), score)
        assert isinstance(close, Close)
        assert close.metrics["client_accuracy"] == {"0": 0.9}
        assert close.metrics["test_accuracy"] is None
        assert close.metrics["seconds"] == 30.0
        assert close.metrics["time"]["evaluation"] == 60.0

    def test_the_next_round_or_the_end(self) -> None:
        (opened,) = following(running(round=round_("done")))
        assert opened == Open(2, (0, 1, 2))
        last = following(running(round=round_("done", 2)))
        assert last[0] == Enter("finishing")
        assert kinds(last) == ["conclude@split"]

    def test_the_end(self) -> None:
        jobs = (Job("conclude", "split", "done", result={"artifacts": {"model.safetensors": {}}}),)
        picture = replace(running(round=round_("done", 2), jobs=jobs), state="finishing")
        finish, enter = following(picture)
        assert isinstance(finish, Finish)
        assert finish.summary["artifacts"] == {"model.safetensors": {}}
        assert enter == Enter("done")

    @pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
    def test_after_the_end_nothing_follows(self, state: Any) -> None:
        assert following(replace(running(), state=state)) == []

    @pytest.mark.parametrize("kind", ["finish", "aggregate", "score", "end"])
    def test_a_server_that_fails_ends_the_run_or_pauses_it(self, kind: Any) -> None:
        job = Job(kind, "split", "failed", error="disk full")
        sentence = f"{kind} failed at the split server: disk full"
        assert following(self.closing(job)) == [Enter("failed", sentence)]
        assert following(self.closing(replace(job, retryable=True))) == [Pause("failure", sentence)]
