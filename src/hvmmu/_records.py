"""attrs' `frozen` and `define`, with one `__repr__`, `__eq__` and `__hash__` for all classes.

attrs writes and compiles them for each, which was most of the time that defining a class took;
there are a hundred of them, and next to none is ever shown or compared. Where records are compared
or hashed all the time, as keys are, `eq=True` has attrs write what is faster.
"""

from collections.abc import Iterator
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrs import define, frozen  # for a type checker, which knows them by name, the same
else:
    from functools import wraps

    import attrs

    def _with_shared_methods(decorate, is_hashable):  # noqa: ANN001, ANN202 - typed above
        def shared(own, eq):  # noqa: ANN001, ANN202
            if "__repr__" not in own:
                yield "__repr__", shown
            if eq is None and "__eq__" not in own:
                yield "__eq__", equal
                if "__hash__" not in own:
                    yield "__hash__", hashed if is_hashable else None

        @wraps(decorate)
        def decorator(maybe_class=None, *, eq=None, **options):  # noqa: ANN001, ANN003, ANN202
            if maybe_class is None:
                return lambda made: decorator(made, eq=eq, **options)
            methods = dict(shared(vars(maybe_class), eq))
            made = decorate(maybe_class, repr=False, eq=bool(eq), **options)
            for name, method in methods.items():
                setattr(made, name, method)
            return made

        return decorator

    define = _with_shared_methods(attrs.define, is_hashable=False)
    frozen = _with_shared_methods(attrs.frozen, is_hashable=True)

__all__ = ["define", "frozen"]


@recursive_repr()
def shown(self: object) -> str:
    """Return a record as attrs would: its class, and its fields with their values."""
    fields = (
        f"{field.name}={(repr if field.repr is True else field.repr)(getattr(self, field.name))}"
        for field in type(self).__attrs_attrs__  # type: ignore[attr-defined] # decorated above
        if field.repr is not False
    )
    return f"{type(self).__qualname__.rpartition('>.')[2]}({', '.join(fields)})"


def equal(self: object, other: object) -> object:
    """Say whether two records are of one class, and equal field by field."""
    if type(other) is not type(self):
        return NotImplemented
    pairs = zip(_compared(self), _compared(other), strict=True)
    return all(mine == theirs for mine, theirs in pairs)


def hashed(self: object) -> int:
    """Return the same for records that are equal."""
    return hash((type(self), *_compared(self)))


def _compared(record: Any) -> Iterator[Any]:  # noqa: ANN401 - any that is decorated above
    """Yield what tells a record from others of its class."""
    for field in type(record).__attrs_attrs__:
        if field.eq:
            value = getattr(record, field.name)
            yield value if field.eq_key is None else field.eq_key(value)
