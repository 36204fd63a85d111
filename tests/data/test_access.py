"""Access: what was declared is handed over, anything else raises and names the need; the protocol is checked first."""

import pytest
import torch
from tiny import Lab, config, stream_of

from perdure.core.errors import UsageError
from perdure.core.method import Method, Need, Step
from perdure.core.task import Protocol, Stream
from perdure.data.access import Access, Views, grant
from perdure.data.memory import ReplayMemory, with_extra
from perdure.data.reservoir import Reservoir


def one_window(access):
    return access.current.windows(1, 1, Step(0, 0, "train", 0))


CALLS = {
    Need.PAST_DATA: lambda access: access.past(),
    Need.TASK_COUNT: lambda access: access.task_count(),
    Need.TEXT: lambda access: access.text(),
    Need.MEMORY: lambda access: access.remember(ReplayMemory(), 1, share=0.1, seed=0),
}


def access(*needs, task=1):
    return Access(Views(stream_of(config())), task, frozenset(needs))


@pytest.mark.parametrize("need", list(CALLS))
def test_undeclared_calls_raise_and_name_the_need(need):
    others = [n for n in Need if n is not need]
    with pytest.raises(UsageError, match=rf"{need.value} but does not declare Need\.{need.name}"):
        CALLS[need](access(*others))
    CALLS[need](access(need))


@pytest.mark.parametrize(
    ("need", "call"),
    [
        (Need.PAST_DATA, lambda access: access.union()),
        (Need.MEMORY, lambda access: access.keep(ReplayMemory(), one_window(access))),
        (Need.MEMORY, lambda access: access.offer(Reservoir(), one_window(access), Step(0, 0, "train", 0), share=0.1)),
    ],
    ids=["union", "keep", "offer"],
)
def test_other_ways_to_the_same_need_raise_too(need, call):
    with pytest.raises(UsageError, match=rf"does not declare Need\.{need.name}"):
        call(access(*(n for n in Need if n is not need)))
    call(access(need))


def test_the_union_is_all_tasks_so_far_and_made_once():
    stream = Views(stream_of(config()))
    given = Access(stream, 1, frozenset({Need.PAST_DATA}))
    assert given.union() is given.union()
    assert [group.tasks for group in given.union().groups] == [(0, 1)]
    later = Access(stream, 2, frozenset({Need.PAST_DATA})).union()
    assert [group.tasks for group in later.groups] == [(0, 1, 2)]
    assert stream.views[0].sampler.obs.untyped_storage().data_ptr() == later.groups[0].obs.untyped_storage().data_ptr()


@pytest.mark.parametrize("budget", [2000, 5000, 10**9])
def test_remembering_within_a_budget_adds_to_few_windows_only(budget):
    """What a method keeps with its windows is made for those that fit, and changes nothing about which they are."""
    asked, memory = [], ReplayMemory()

    def with_more(windows):
        asked.append(len(windows))
        return with_extra(windows, mark=windows.timestep[:, 0].float())

    for task in range(3):
        given, everything = access(Need.MEMORY, task=task), ReplayMemory()
        given.remember(memory, 2, share=0.1, seed=0, budget=budget, with_more=with_more)
        given.remember(everything, 2, share=2.0, seed=0)
        assert memory.bytes() <= budget
        assert asked[-1] in (memory.size(task), given.current.sampler.count())
        assert torch.equal(memory.all(task).extra["mark"], memory.all(task).timestep[:, 0].float())
        assert torch.equal(memory.all(task).obs, everything.all(task).obs[: memory.size(task)])


def test_a_reservoir_gets_room_for_the_share_of_each_task():
    reservoir = Reservoir()
    for task in range(2):
        for index in range(3):
            step = Step(0, task, "train", index)
            windows = access(task=task).current.windows(2, 8, step)
            access(Need.MEMORY, task=task).offer(reservoir, windows, step, share=0.25)
        total = sum(round(0.25 * access(task=t).current.sampler.count() / 2) for t in range(task + 1))
        assert list(reservoir.rows.values()) == [total]
    assert reservoir.tasks() == [0, 1]


def test_past_is_the_earlier_tasks_only():
    assert [view.task.index for view in access(Need.PAST_DATA, task=2).past()] == [0, 1]
    assert access(Need.PAST_DATA, task=0).past() == []
    assert access(task=2).current.task.index == 2


def test_views_draw_by_step_purpose_and_task():
    given = access(Need.PAST_DATA)
    step = Step(0, 1, "train", 3)
    once, again = given.current.windows(2, 6, step), given.current.windows(2, 6, step)
    assert once.obs.equal(again.obs)
    assert not given.current.windows(2, 6, Step(0, 1, "train", 4)).obs.equal(once.obs)
    assert not given.current.windows(2, 6, Step(0, 1, "other", 3)).obs.equal(once.obs)
    assert not given.current.windows(2, 6, Step(1, 1, "train", 3)).obs.equal(once.obs)
    assert not given.past()[0].windows(2, 6, step).timestep.equal(once.timestep), "two tasks do not draw alike"


def test_views_are_made_once():
    views = Views(stream_of(config()))
    first = Access(views, 0, frozenset()).current
    sampler, stats = first.sampler, first.stats()
    assert Access(views, 0, frozenset()).current.sampler is sampler
    assert first.stats() is stats


def test_a_second_draw_of_one_step_needs_a_purpose_of_its_own():
    view, step = Views(stream_of(config())).views[0], Step(0, 0, "train", 1)
    first = view.windows(2, 20, step)
    assert view.windows(2, 20, step).obs.equal(first.obs)
    assert not view.windows(2, 20, step, purpose="reference").obs.equal(first.obs)


def test_remembering_is_keyed_by_seed_and_task():
    def kept(seed, task):
        memory = ReplayMemory()
        access(Need.MEMORY, task=task).remember(memory, 2, share=0.3, seed=seed)
        return memory.all(task).timestep

    assert kept(0, 1).equal(kept(0, 1))
    assert not kept(0, 1).equal(kept(1, 1))


FORBIDDING = {
    Need.TASK_ID: Protocol(task_id_at_test=False),
    Need.PAST_DATA: Protocol(past_data_allowed=False),
    Need.ROLLOUTS: Protocol(rollouts_allowed=False),
    Need.TASK_COUNT: Protocol(task_count_known=False),
}


@pytest.mark.parametrize("need", list(FORBIDDING))
def test_a_stream_can_forbid_a_need_and_both_are_named(need):
    class Wanting(Method):
        @classmethod
        def needs(cls, settings):
            return frozenset({need})

    plain = stream_of(config())
    with pytest.raises(
        UsageError, match=rf"Wanting needs {need.value} \(Need\.{need.name}\), which the stream strict forbids"
    ):
        grant(Wanting, None, Stream("strict", plain.tasks, FORBIDDING[need]))
    allowing = Protocol(rollouts_allowed=True)
    assert grant(Wanting, None, Stream("free", plain.tasks, allowing)) == {need}


def test_text_must_be_there():
    from dataclasses import replace

    class Reader(Method):
        @classmethod
        def needs(cls, settings):
            return frozenset({Need.TEXT})

    plain = stream_of(config())
    mute = Stream("mute", tuple(replace(task, text="") for task in plain.tasks))
    with pytest.raises(
        UsageError, match=r"Reader needs the description of the task in words, which the stream mute lacks"
    ):
        grant(Reader, None, mute)


def test_transitions_of_a_view():
    batch = Lab(config()).access(0).current.transitions(5, Step(0, 0, "train", 0))
    assert len(batch) == 5
    assert batch.next_obs.shape == batch.obs.shape
