# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The engine's fairness, limits and cancelling, and steps taken for several sessions at once."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from funaudiochat import generation_funaudiochat as generation
from funaudiochat import prompt_blocks
from funaudiochat.events import ReplyDone, TextDelta
from funaudiochat.sampling import Sampling
from tests.helpers.web_clients import TIMEOUT_S, until
from web_demo.server import engine as engines
from web_demo.server.engine import QUEUE_EVENTS, Engine, Job


@asynccontextmanager
async def engine(models=None):
    found = Engine(models)
    try:
        yield found
    finally:
        async with asyncio.timeout(TIMEOUT_S):
            await found.close()


def answer(steps, name, count):
    """Events that note in `steps` who was stepped."""
    try:
        for number in range(count):
            steps.append(name)
            yield TextDelta(f"{name}{number}")
    finally:
        steps.append(name.upper())


async def take(job, count=10**6):
    pieces = []
    async for event in job:
        pieces.append(event.text)
        if len(pieces) == count:
            break
    return pieces


def test_two_users_are_stepped_in_turn():
    """No gap between one's steps exceeds one step of the other, so two step times."""
    steps = []

    def together(found, name):
        for number, event in enumerate(answer(steps, name, 40)):
            # Who is first waits for the other.
            while number == 1 and len(found._ring) + found._stepped < 2:
                time.sleep(0.001)
            yield event

    async def run():
        async with engine() as found:
            jobs = [found.submit(lambda n=name: together(found, n)) for name in "ab"]
            taken = await asyncio.gather(*map(take, jobs))
            assert taken == [[f"{name}{n}" for n in range(40)] for name in "ab"]

    asyncio.run(run())
    both = "".join(steps)
    both = both[max(both.index("a"), both.index("b")) : min(both.index("A"), both.index("B"))]
    assert len(both) > 70 and "aaa" not in both and "bbb" not in both
    assert both.count("aa") + both.count("bb") <= 2  # where the second joins and the first ends


def test_a_long_prompt_delays_nobody():
    go = threading.Event()

    def slow():
        go.wait(TIMEOUT_S)
        yield TextDelta("late")

    async def run():
        async with engine() as found:
            late, quick = found.submit(slow), None
            await asyncio.sleep(0)
            # A second prompt waits its turn, but an answer in progress continues.
            first = asyncio.create_task(take(late))
            assert not first.done()
            go.set()
            quick = found.submit(lambda: answer([], "q", 30))
            assert len(await take(quick)) == 30
            assert await first == ["late"]

    asyncio.run(run())


def test_steps_continue_while_a_prompt_is_read():
    go, reading = threading.Event(), threading.Event()

    def slow():
        reading.set()
        go.wait(TIMEOUT_S)
        yield TextDelta("late")

    async def run():
        async with engine() as found:
            running = found.submit(lambda: answer([], "q", 200))
            assert await take(running, 1) == ["q0"]
            late = found.submit(slow)
            await asyncio.to_thread(reading.wait, TIMEOUT_S)
            assert len(await take(running)) == 199
            go.set()
            assert await take(late) == ["late"]

    asyncio.run(run())


def test_a_reader_behind_stops_only_its_own_answer():
    steps = []

    async def run():
        async with engine() as found:
            behind = found.submit(lambda: answer(steps, "a", 500))
            assert len(await take(found.submit(lambda: answer(steps, "b", 300)))) == 300
            assert steps.count("a") <= QUEUE_EVENTS
            assert len(await take(behind)) == 500

    asyncio.run(run())


def test_a_cancelled_answer_is_closed_and_gives_nothing_more():
    steps = []

    async def run():
        async with engine() as found:
            job = found.submit(lambda: answer(steps, "a", 500))
            await take(job, 3)
            job.cancel()
            await asyncio.wait_for(job.closed.wait(), TIMEOUT_S)
            assert found.jobs == 0 and steps[-1] == "A" and steps.count("a") < 200
            early = found.submit(lambda: answer(steps, "c", 5))
            early.cancel()
            await asyncio.wait_for(early.closed.wait(), TIMEOUT_S)
            assert "c" not in steps

    asyncio.run(run())


def test_what_a_model_raises_ends_its_answer_alone():
    def failing():
        yield TextDelta("one")
        raise RuntimeError("no memory")

    def refusing():
        raise ValueError("bad question")

    class Panic(BaseException):
        """What a Rust library raises."""

    def panicking():
        yield TextDelta("one")
        raise Panic

    async def run():
        async with engine() as found:
            bad, good = found.submit(failing), found.submit(lambda: answer([], "g", 20))
            with pytest.raises(RuntimeError, match="no memory"):
                await take(bad)
            with pytest.raises(ValueError, match="bad question"):
                await take(found.submit(refusing))
            with pytest.raises(RuntimeError, match="Panic"):
                await take(found.submit(panicking))
            assert len(await take(good)) == 20
            await asyncio.wait_for(good.closed.wait(), TIMEOUT_S)
            assert found.alive and found.jobs == 0

    asyncio.run(run())


def test_a_step_that_hangs_ends_its_answer_and_holds_up_no_closing(monkeypatch):
    go, hangs = threading.Event(), threading.Event()

    def hanging():
        hangs.set()
        go.wait(TIMEOUT_S)
        yield TextDelta("late")

    async def run():
        found = Engine(None)
        monkeypatch.setattr(engines, "STEP_TIMEOUT_S", 0.2)
        job = found.submit(hanging)
        with pytest.raises(RuntimeError, match="did not return within 0.2 s; restart"):
            await take(job)
        await asyncio.wait_for(job.closed.wait(), TIMEOUT_S)
        assert not found.alive and found.calls == 1
        monkeypatch.setattr(engines, "STEP_TIMEOUT_S", TIMEOUT_S)
        go.set()
        assert len(await take(found.submit(lambda: answer([], "g", 20)))) == 20
        assert found.alive
        go.clear()
        hangs.clear()
        job = found.submit(hanging)
        await until(hangs.is_set)
        job.cancel()
        monkeypatch.setattr(engines, "CLOSE_TIMEOUT_S", 0.2)
        await found.close()
        assert found.calls == 1

    try:
        asyncio.run(run())
    finally:
        go.set()


def test_who_has_nothing_to_hear_goes_first_then_whose_audio_runs_out_first():
    """Both for steps and for audio; background work runs only when nothing else is waiting."""
    steps, waveforms, go = [], [], threading.Event()
    heard_s = {"plenty": 60.0, "little": 5.0, "nothing": None, "background": None}

    def waiting():
        yield TextDelta("first")
        go.wait(TIMEOUT_S)
        yield TextDelta("last")

    async def run():
        async with engine() as found:
            # It holds the thread of the steps until all others stand behind it.
            holder = found.submit(waiting)
            await take(holder, 1)
            jobs = {}
            for name, seconds in heard_s.items():
                jobs[name] = found.submit(
                    lambda n=name: answer(steps, n, 4), background=name == "background"
                )
                if seconds is not None:
                    jobs[name].add_lead(seconds)
            await until(lambda: len(found._ring) == 4)
            block = asyncio.create_task(found.detokenize(holder, go.wait, TIMEOUT_S))
            await asyncio.sleep(0)
            voices = [
                asyncio.create_task(found.detokenize(job, waveforms.append, name))
                for name, job in jobs.items()
            ]
            await asyncio.sleep(0)
            gone = asyncio.create_task(
                found.detokenize(jobs["nothing"], waveforms.append, "cancelled")
            )
            await asyncio.sleep(0)
            gone.cancel()
            go.set()
            await asyncio.gather(block, *voices, *map(take, [holder, *jobs.values()]))

    asyncio.run(run())
    order = ["nothing", "little", "plenty", "background"]
    assert waveforms == order
    ends = [step.lower() for step in steps if step.isupper()]
    assert ends == order


@dataclass
class Piece:
    """A chunk of a reply that takes ten solver steps."""

    name: str
    frames: int
    left: int = 10

    @property
    def shape(self):
        return self.frames, self.left


class Voice:
    """The audio of a reply that has one chunk."""

    def __init__(self, name, frames, order):
        self.name, self.frames, self.order, self.due = name, frames, order, True

    def next_chunk(self):
        self.due = False
        return Piece(self.name, self.frames)

    def complete(self, piece):
        assert piece.left == 0
        self.order.append(f"{self.name}!")
        return torch.zeros(960)


class Solver:
    """Notes whose chunks each solver step is taken for; waits after the third."""

    def __init__(self, order):
        self.order, self.reached, self.go = order, threading.Event(), threading.Event()

    def solve_step(self, pieces):
        self.order.append("".join(piece.name for piece in pieces))
        for piece in pieces:
            piece.left -= 1
        if len(self.order) == 3:
            self.reached.set()
            self.go.wait(TIMEOUT_S)
        return pieces[0].left == 0


def test_who_has_nothing_to_hear_waits_for_one_solver_step_of_a_long_chunk():
    """Chunks of one length are solved together; one of another length is not held up by them."""
    order = []
    solver = Solver(order)

    async def listen(found, name, frames, lead_s=None):
        job = Job(0, lambda: None)
        if lead_s is not None:
            job.add_lead(lead_s)
        return [audio async for audio in found._audio(job, Voice(name, frames, order))]

    async def run():
        async with engine(SimpleNamespace(detokenizer=solver)) as found:
            long = asyncio.create_task(listen(found, "L", 100, 60.0))
            await asyncio.to_thread(solver.reached.wait, TIMEOUT_S)
            late = asyncio.create_task(listen(found, "c", 14, 30.0))
            soon = [asyncio.create_task(listen(found, name, 14)) for name in "ab"]
            await until(lambda: len(found._detokenizer_calls) == 3)
            solver.go.set()
            for audio in await asyncio.gather(long, late, *soon):
                assert len(audio) == 1

    asyncio.run(run())
    assert order == [*["L"] * 3, *["ab"] * 10, "a!", "b!", *["c"] * 10, "c!", *["L"] * 7, "L!"]


def test_an_error_of_the_detokenizer_ends_the_replies_in_the_call():
    class Broken:
        def solve_step(self, pieces):
            raise RuntimeError("no memory")

    async def run():
        async with engine(SimpleNamespace(detokenizer=Broken())) as found:
            job = Job(0, lambda: None)
            with pytest.raises(RuntimeError, match="no memory"):
                async for _ in found._audio(job, Voice("a", 14, [])):
                    pass
            assert await found.detokenize(job, len, "next") == 4 and found.alive

    asyncio.run(run())


ASKED = (
    ("What is the capital of France?", True, Sampling(greedy=True, max_new_tokens=16)),
    ("Count to ten.", True, Sampling(seed=3, temperature=1.5, max_new_tokens=20)),
    ("你好", False, Sampling(greedy=True, max_new_tokens=12)),
    ("Tell me a story about a red door.", False, Sampling(seed=5, top_k=9, max_new_tokens=25)),
    ("What time is it?", True, Sampling(seed=7, repetition_penalty=1.3, max_new_tokens=9)),
)


def begin(models, question, speech, sampling, tools=None):
    return models.new_chat().stream(text=question, speech=speech, sampling=sampling, tools=tools)


def plain(events):
    """What can be compared, without the reply's latency."""
    return [
        (event.reply.text, event.reply.finish_reason, event.reply.usage)
        if isinstance(event, ReplyDone)
        else event.text
        if isinstance(event, TextDelta)
        else event.tokens.tolist()
        for event in events
    ]


async def take_all(job):
    return plain([event async for event in job])


@pytest.fixture
def sizes(monkeypatch):
    """How many replies each step of the models was taken for; prompts are short."""
    monkeypatch.setattr(prompt_blocks, "CPU_POSITIONS", 10000)
    found, together = [], generation.step_together

    def noting(model, runs):
        found.append(len(runs))
        return together(model, runs)

    monkeypatch.setattr(generation, "step_together", noting)
    return found


@asynccontextmanager
async def held(found):
    """Hold the thread of the steps."""
    go = threading.Event()

    def waiting():
        yield TextDelta("first")
        go.wait(TIMEOUT_S)

    holder = found.submit(waiting)
    await take(holder, 1)
    yield
    go.set()
    await take(holder)


def test_sessions_are_stepped_together_and_each_gets_its_own_reply(models, sizes, monkeypatch):
    """Spoken and written, greedy and sampled, with tools; beside slow and cancelled ones."""
    tools = models.tools[:2]
    asked = [*ASKED, ("What time is it?", False, Sampling(greedy=True, max_new_tokens=15), tools)]
    wanted = [plain(begin(models, *each)) for each in asked]
    sizes.clear()
    monkeypatch.setattr(engines, "QUEUE_EVENTS", 8)

    async def run():
        async with engine() as found:
            async with held(found):
                jobs = [found.submit(lambda e=each: begin(models, *e)) for each in asked]
                gone = found.submit(lambda: begin(models, *ASKED[1]))
                await until(lambda: len(found._ring) == len(jobs) + 1)
            taken = [asyncio.create_task(take_all(job)) for job in jobs[1:]]
            await take(gone, 1)
            gone.cancel()
            await asyncio.wait_for(gone.closed.wait(), TIMEOUT_S)
            later = await take_all(found.submit(lambda: begin(models, *ASKED[0])))
            assert later == wanted[0]
            assert await asyncio.gather(*taken) == wanted[1:]
            # Nobody has read the first one so far, which kept none of the others.
            assert not jobs[0].closed.is_set() and jobs[0].full
            assert await take_all(jobs[0]) == wanted[0]
            await asyncio.gather(*(job.closed.wait() for job in jobs))
            assert found.jobs == 0 and all(job.compute_s > 0 for job in jobs)

    asyncio.run(run())
    assert max(sizes) >= len(asked) and len(wanted) == len(set(map(str, wanted)))


def test_who_has_plenty_to_hear_is_left_out_while_others_have_nothing(models, sizes):
    wanted = [plain(begin(models, *each)) for each in ASKED[:2]]
    sizes.clear()

    async def run():
        async with engine() as found:
            async with held(found):
                ample, urgent = (
                    found.submit(lambda e=each: begin(models, *e)) for each in ASKED[:2]
                )
                ample.add_lead(3600)
                await until(lambda: len(found._ring) == 2)
            assert await take_all(urgent) == wanted[1]
            assert await take_all(ample) == wanted[0]

    asyncio.run(run())
    assert set(sizes) == {1}


def test_what_fails_in_a_step_ends_one_reply_of_those_in_it(models, sizes, monkeypatch):
    wanted = [plain(begin(models, *each)) for each in ASKED[:3]]
    broken = Sampling(seed=11, temperature=1.7, max_new_tokens=20)

    class Failing(generation.SpeechChoices):
        def __init__(self, options, *given):
            if options.temperature == broken.temperature and max(sizes) > 2:
                raise RuntimeError("probabilities are not numbers")
            super().__init__(options, *given)

    sizes.clear()
    monkeypatch.setattr(generation, "SpeechChoices", Failing)

    async def run():
        async with engine() as found:
            async with held(found):
                jobs = [found.submit(lambda e=each: begin(models, *e)) for each in ASKED[:3]]
                bad = found.submit(lambda: begin(models, "?", True, broken))
                await until(lambda: len(found._ring) == 4)
            with pytest.raises(RuntimeError, match="not numbers"):
                await take_all(bad)
            assert await asyncio.gather(*map(take_all, jobs)) == wanted
            await asyncio.gather(*(job.closed.wait() for job in jobs))
            assert found.alive and found.jobs == 0

    asyncio.run(run())


@pytest.fixture
def order(monkeypatch):
    """Blocks of prompts and steps of the models as they run; of a step, how many took part."""
    found, resume = [], generation.SteppedEvents.resume
    together = generation.step_together

    def resuming(self):
        if self.reading:
            found.append("block")
        return resume(self)

    def stepping(model, runs):
        found.append([id(state) for state, _ in runs])
        return together(model, runs)

    monkeypatch.setattr(generation.SteppedEvents, "resume", resuming)
    monkeypatch.setattr(generation, "step_together", stepping)
    return found


def test_one_block_of_a_prompt_runs_between_two_steps_of_a_reply(models, order, monkeypatch):
    noise = np.random.default_rng(0).standard_normal(int(20.37 * 16000)).astype(np.float32)

    def ask(audio):
        sampling = Sampling(seed=2, max_new_tokens=3)
        return models.new_chat().stream(audio=(0.1 * audio, 16000), sampling=sampling)

    running = "Count.", True, Sampling(seed=3, temperature=1.5, max_new_tokens=20)
    begins = [
        lambda: begin(models, *running), lambda: ask(noise), lambda: ask(noise[20000:]),
    ]  # fmt: skip
    wanted = [plain(each()) for each in begins]
    assert wanted[0][-1][1:][0] == "length"  # it does not end before the prompts do
    whole = order.count("block")
    monkeypatch.setattr(prompt_blocks, "CPU_POSITIONS", 16)
    order.clear()

    async def run():
        async with engine() as found:
            async with held(found):
                jobs = [found.submit(each) for each in begins]
                await until(lambda: len(found._ring) == len(jobs))
            assert await asyncio.gather(*map(take_all, jobs)) == wanted

    asyncio.run(run())
    assert order.count("block") > 2 * whole
    steps = [at for at, what in enumerate(order) if what != "block"]
    first = order[steps[0]][0]  # the short question's reply
    own = [at for at in steps if first in order[at]]
    between = order[own[0] : own[-1] + 1]
    assert len(own) == 20 and between.count("block") == 19 and len(between) == 39
    # Both prompts are read in turn, so that the second does not wait for all of the first.
    assert all(len(each) == 1 for each in between if each != "block")
