"""Records: attrs classes, shown as attrs would show them."""

import attrs
import pytest

from hvmmu import records


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
