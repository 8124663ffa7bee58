import pytest

from owl_jax.aot.hlo import Instruction
from owl_jax.aot.replica_groups import first_group, read_groups


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [(0, 1), (2, 3)]),
        ("{}", []),
        ("[2,4]<=[8]", [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("[4,2]<=[2,4]T(1,0)", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("mesh['a'=2,'b'=4] {'b'}", [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("mesh['a'=2,'b'=4] {'a'}", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [(0, 1, 4, 5), (2, 3, 6, 7)]),
        ("mesh['a'=1,'b'=4] {'b'}", [(0, 1, 2, 3)]),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [(0, 2), (1, 3)]),
    ],
)
def test_groups_in_each_way_to_write_them(text, groups):
    assert read_groups(text) == groups


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        (", replica_groups={{2,3},{0,1}}, dimensions={0}", (2, 3)),
        (", replica_groups={}, dimensions={0}", (0, 1, 2, 3)),
        (", dimensions={0}", (0, 1, 2, 3)),
        (
            ", channel_id=1, replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, "
            "use_global_device_ids=true",
            (0, 2),
        ),
        (", source_target_pairs={{0,1},{1,2},{2,3},{3,0}}, channel_id=2", (3, 0)),
    ],
)
def test_the_first_group_of_an_instruction(attributes, group):
    instruction = Instruction("name", "all-reduce", (), (), "", attributes, False)
    assert first_group(instruction, devices=4) == group
