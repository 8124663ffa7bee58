import asyncio
import gc

import pytest

from owl_jax.checkpoint.event_loop import patient_event_loops


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect():
    """The collector would look for a second through what other tests have left."""
    gc.freeze()


@pytest.fixture
def policy():
    """The one of Python, and none that another test has set."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    yield
    asyncio.set_event_loop_policy(before)


async def fails(error, after=0.0):
    await asyncio.sleep(after)
    raise error


def closed_after(main):
    """Runs what raises a KeyError, as Orbax does; returns what the loop has to tell after that."""
    told = []
    before = asyncio.get_event_loop_policy()
    with patient_event_loops():
        loop = asyncio.new_event_loop()
    assert asyncio.get_event_loop_policy() is before
    loop.set_exception_handler(lambda _, context: told.append(context))
    with pytest.raises(KeyError):
        loop.run_until_complete(main)
    loop.close()
    assert loop.is_closed()
    loop.close()
    gc.collect()
    return told


def test_a_loop_that_closes_ends_what_was_begun(policy):
    ended = []

    async def last(name):
        await asyncio.sleep(0.01)
        ended.append(name)

    async def together():
        await asyncio.gather(fails(KeyError()), last("a"), fails(ValueError(), 0.01), last("b"))

    assert closed_after(together()) == []
    assert ended == ["a", "b"]


def test_it_ends_what_is_begun_meanwhile(policy):
    ended = []

    async def last():
        await asyncio.sleep(0.05)
        ended.append("last")

    async def several():
        await asyncio.sleep(0.01)
        await asyncio.gather(fails(ValueError(), 0.01), last())

    async def together():
        await asyncio.gather(fails(KeyError()), several())

    assert closed_after(together()) == []
    assert ended == ["last"]


@pytest.mark.parametrize("count", range(2, 8))
def test_errors_of_the_same_turn_are_not_told_either(policy, count):
    async def nested(depth):
        if depth == 0:
            raise KeyError
        await asyncio.gather(nested(depth - 1))

    async def together():
        await asyncio.gather(*map(nested, range(count)))

    assert closed_after(together()) == []


def test_a_loop_closes_within_another_that_runs(policy):
    async def main():
        loop = asyncio.new_event_loop()
        loop.close()
        return loop.is_closed()

    with patient_event_loops():
        assert asyncio.run(main())


def test_a_policy_that_the_program_chose_stays(policy):
    class Chosen(asyncio.DefaultEventLoopPolicy):
        pass

    chosen = Chosen()
    asyncio.set_event_loop_policy(chosen)
    with patient_event_loops():
        assert asyncio.get_event_loop_policy() is chosen
    assert asyncio.get_event_loop_policy() is chosen


def test_blocks_overlap_in_any_order(policy):
    before, own = asyncio.get_event_loop_policy(), asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    first, second = patient_event_loops(), patient_event_loops()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    loop = asyncio.new_event_loop()
    assert type(loop) is not type(own)
    assert asyncio.get_event_loop() is own  # the program's own stays what it was
    loop.close()
    second.__exit__(None, None, None)
    assert asyncio.get_event_loop_policy() is before
    asyncio.set_event_loop(None)
    own.close()


def test_a_policy_that_is_chosen_inside_stays(policy):
    with patient_event_loops():
        chosen = asyncio.DefaultEventLoopPolicy()
        asyncio.set_event_loop_policy(chosen)
    assert asyncio.get_event_loop_policy() is chosen
