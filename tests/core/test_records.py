"""Records: attrs classes, shown as attrs would show them."""

import attrs
import pytest

from hvmmu import _records as records


def twins(decorate: object) -> tuple[type, type]:
    """Return a record with fields of every kind, and one that is shown its own way."""

    @decorate(eq=False)
    class Record:
        number: int
        text: str = "x"
        hidden: int = attrs.field(default=7, repr=False)
        hexed: int = attrs.field(default=255, repr=hex)
        again: object = None

    @decorate
    class Own:
        number: int = 1

        def __repr__(self) -> str:
            return "my own"

    return Record, Own


@pytest.mark.parametrize("name", ["define", "frozen"])
def test_shown_as_attrs_would(name: str) -> None:
    """A message or a failed test shows a record without its values, or those meant to be hidden."""
    ours, theirs = (twins(getattr(made, name)) for made in (records, attrs))
    shown = "Record(number=1, text='x', hexed=0xff, again=None)"
    assert repr(ours[0](1)) == repr(theirs[0](1)) == shown
    assert repr(ours[1]()) == "my own"
    nested = ours[0](1, again=ours[0](2))
    assert "again=Record(number=2" in repr(nested)


def test_one_that_holds_itself() -> None:
    """Showing a record that can be reached from itself never ends."""
    record = twins(records.define)[0](1)
    record.again = record
    assert repr(record) == "Record(number=1, text='x', hexed=0xff, again=...)"


def test_otherwise_they_are_as_attrs_makes_them() -> None:
    """A record can be changed, has no slots, or two that are equal are not."""

    @records.frozen
    class Frozen:
        number: int

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Frozen(1).number = 2
    assert not hasattr(Frozen(1), "__dict__")
    assert hash(Frozen(1)) == hash(Frozen(1))


@pytest.mark.parametrize("eq", [None, True], ids=["shared", "of its own"])
def test_compared_as_attrs_would(eq: bool | None) -> None:
    """Two results that are equal are told as different, or a difference that counts goes unseen."""

    @records.frozen(eq=eq)
    class Record:
        number: int
        text: str = attrs.field(default="x", eq=str.lower)
        seconds: float = attrs.field(default=0.0, eq=False)

    @records.frozen(eq=eq)
    class Other(Record):
        pass

    assert Record(1, "A", 0.5) == Record(1, "a", 0.7)
    assert hash(Record(1, "A", 0.5)) == hash(Record(1, "a", 0.7))
    assert Record(1) != Record(2)
    assert Record(1, "a") != Record(1, "b")
    assert Record(1) != Other(1)
    assert Record(1) != 1


def test_what_can_change_has_no_hash() -> None:
    """A record that changes is lost in the dictionary it is a key of."""

    @records.define
    class Changing:
        number: int

    assert Changing(1) == Changing(1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Changing(1))


def test_compared_by_its_own_rule() -> None:
    """A class that says what makes two of it equal, or that all differ, is not believed."""

    @records.frozen
    class Parity:
        number: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Parity) and self.number % 2 == other.number % 2

        def __hash__(self) -> int:
            return self.number % 2

    @records.frozen(eq=False)
    class Unique:
        number: int

    assert Parity(1) == Parity(3)
    assert hash(Parity(1)) == hash(Parity(3))
    assert Unique(1) != Unique(1)
    assert len({Unique(1), Unique(1)}) == 2
