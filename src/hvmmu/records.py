"""attrs' `frozen` and `define`, with one `__repr__` for all classes.

attrs writes and compiles one for each, which was half the time that defining a class took; there
are a hundred of them, and next to none is ever shown.
"""

from reprlib import recursive_repr
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import define, frozen  # for a type checker, which knows them by name, the same
else:
    from functools import wraps

    import attrs

    def _with_one_repr(decorate):  # noqa: ANN001, ANN202 - typed above
        @wraps(decorate)
        def decorator(maybe_class=None, **options):  # noqa: ANN001, ANN003, ANN202
            if maybe_class is None:
                return lambda made: decorator(made, **options)
            own = "__repr__" in vars(maybe_class)
            made = decorate(maybe_class, repr=False, **options)
            if not own:
                made.__repr__ = shown
            return made

        return decorator

    define, frozen = _with_one_repr(attrs.define), _with_one_repr(attrs.frozen)

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
