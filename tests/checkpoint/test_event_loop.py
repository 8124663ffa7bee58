import asyncio

import pytest

from owl_jax.checkpoint.event_loop import use_patient_event_loops


@pytest.fixture
def policy():
    """The one of Python, and none that another test has set."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    yield
    asyncio.set_event_loop_policy(before)


def test_a_loop_that_closes_ends_what_was_begun(policy):
    use_patient_event_loops()
    ended = []

    async def last(name, error=None):
        await asyncio.sleep(0.01)
        ended.append(name)
        if error:
            raise error

    async def first():
        raise KeyError("first")

    async def together():
        await asyncio.gather(first(), last("a"), last("b", ValueError("nobody waits for it")))

    loop = asyncio.new_event_loop()
    with pytest.raises(KeyError, match="first"):
        loop.run_until_complete(together())
    assert ended == []
    loop.close()
    assert ended == ["a", "b"]
    assert loop.is_closed()
    loop.close()


def test_a_policy_that_the_program_chose_stays(policy):
    class Chosen(asyncio.DefaultEventLoopPolicy):
        pass

    chosen = Chosen()
    asyncio.set_event_loop_policy(chosen)
    use_patient_event_loops()
    assert asyncio.get_event_loop_policy() is chosen
