"""Whatever is killed while messages are sent, none leaves twice, and each ends in a known state."""

from support.fault_house import World
from support.send_faults import holds, run


def test_none_leaves_twice_while_worker_store_and_provider_fail(world: World) -> None:
    story, found, provider = run(world, 60, kills=4, store_kills=1)
    became = holds(world, story, found, provider)
    assert became["sent"] + became["delivered"] > 20
    assert len(story.excluded_at) == 6
