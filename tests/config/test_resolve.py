"""The resolved configuration: which source wins, and where each name goes."""

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from hvmmu._config import Config, ConfigSchema, resolve
from hvmmu.errors import ConfigError
from hvmmu.params import Value, param


def value(config: Config, key: str) -> Value:
    """Return a parameter's value."""
    section, _, name = key.rpartition(".")
    found: Value = getattr(config.sections[section], name)
    return found


def source(config: Config, key: str) -> str:
    """Return where a key was set."""
    return next(row.source for row in config.rows if row.key == key)


def test_nothing_set_means_defaults(resolved: Callable[..., Config]) -> None:
    """Without any source a value differs from its declaration, or is said to be asked for."""
    config = resolved()
    assert config.backends == ("native", "left", "right")
    assert (config.costs, config.engine) == ("sandy", "reference")
    assert value(config, "mmu.flood") == 3
    assert not any(config.explicit.values())
    assert {row.source for row in config.rows} == {"default"}


def test_each_source_wins_over_the_ones_below(
    resolved: Callable[..., Config], tmp_path: Path
) -> None:
    """The order is not: default, file, environment, command line."""
    key, environ = "left.depth", {"HVMMU_LEFT_DEPTH": "3"}
    assert value(resolved(), key) == 1
    (tmp_path / "hvmmu.toml").write_text("[left]\ndepth = 2\n")
    config = resolved()
    assert (value(config, key), source(config, key)) == (2, "hvmmu.toml")
    config = resolved(environ=environ)
    assert (value(config, key), source(config, key)) == (3, "HVMMU_LEFT_DEPTH")
    config = resolved("left.depth=4", environ=environ)
    assert (value(config, key), source(config, key)) == (4, "-p left.depth=4")
    assert config.explicit["left"] == {"depth"}
    assert config.explicit["right"] == frozenset()


def test_top_level_keys_follow_the_same_order(
    resolved: Callable[..., Config], tmp_path: Path
) -> None:
    """backend, costs and engine do not obey the order, or lose their sources."""
    (tmp_path / "hvmmu.toml").write_text(
        'backend = ["left", "right"]\ncosts = "nehalem"\nengine = "other"\n'
    )
    config = resolved()
    assert (config.backends, config.costs, config.engine) == (("left", "right"), "nehalem", "other")
    config = resolved(environ={"HVMMU_BACKEND": "native,left", "HVMMU_COSTS": "sandy"})
    assert (config.backends, config.costs) == (("native", "left"), "sandy")
    assert source(config, "backend") == "HVMMU_BACKEND"
    config = resolved(backends=["right", "native"], costs="nehalem", engine="reference")
    assert (config.backends, config.costs) == (("right", "native"), "nehalem")
    assert config.engine == "reference"
    assert source(config, "backend") == "-b right -b native"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"hvmmu.toml": 5}, 5),
        ({"sub/hvmmu.toml": 5, "hvmmu.toml": 6}, 5),
        ({"sub/pyproject.toml": 5, "hvmmu.toml": 6}, 5),
        ({"sub/hvmmu.toml": 5, "sub/pyproject.toml": 6}, 5),
        ({"sub/hvmmu.toml": 5, "sub/deep/pyproject.toml": 6}, 6),
        ({"sub/deep/pyproject.toml": None, "hvmmu.toml": 5}, 5),
        ({"sub/deep/pyproject.toml": None, "sub/pyproject.toml": 5}, 3),
        ({"pyproject.toml": 5}, 5),
    ],
)
def test_the_nearest_file_is_taken(
    resolved: Callable[..., Config], tmp_path: Path, files: dict[str, int | None], found: int
) -> None:
    """A file further up, or a pyproject.toml beside a hvmmu.toml, is read instead."""
    here = tmp_path / "sub" / "deep"
    here.mkdir(parents=True)
    for name, flood in files.items():
        table = "mmu" if name.endswith("hvmmu.toml") else "tool.hvmmu.mmu"
        text = "[project]\n" if flood is None else f"[{table}]\nflood = {flood}\n"
        (tmp_path / name).write_text(text)
    assert value(resolved(cwd=here), "mmu.flood") == found


def test_a_source_names_the_file_as_seen_from_here(
    resolved: Callable[..., Config], tmp_path: Path
) -> None:
    """A value from a file upwards is shown with a path that does not lead there."""
    here = tmp_path / "sub"
    here.mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.hvmmu.mmu]\nflood = 5\n")
    assert source(resolved(cwd=here), "mmu.flood") == "../pyproject.toml [tool.hvmmu]"


def test_a_name_alone_goes_to_every_chosen_backend_that_has_it(
    resolved: Callable[..., Config],
) -> None:
    """-p depth=7 misses a backend that declares it, or reaches one that was not chosen."""
    config = resolved("depth=7")
    assert (value(config, "left.depth"), value(config, "right.depth")) == (7, 7)
    config = resolved("depth=7", backends=["right"])
    assert (value(config, "left.depth"), value(config, "right.depth")) == (1, 7)


def test_a_name_alone_goes_to_the_core_only_if_no_chosen_backend_has_it(
    resolved: Callable[..., Config],
) -> None:
    """-p flood=7 sets a backend and the core at once, or the wrong one."""
    config = resolved("flood=7", backends=["left"])
    assert (value(config, "left.flood"), value(config, "mmu.flood")) == (7, 3)
    config = resolved("flood=7", backends=["native"])
    assert (value(config, "left.flood"), value(config, "mmu.flood")) == (9, 7)
    assert value(resolved("memory=64M"), "guest.memory") == 64 << 20


def test_a_name_alone_passes_by_a_backend_that_refuses_it(resolved: Callable[..., Config]) -> None:
    """Comparing left with right cannot set what only left has."""
    config = resolved("filter_faults=0", backends=["left", "right"])
    assert value(config, "left.filter_faults") is False
    assert config.explicit["left"] == {"filter_faults"}


def test_the_last_of_two_wins(resolved: Callable[..., Config]) -> None:
    """-p twice for one key keeps the first."""
    config = resolved("left.depth=4", "depth=5", "left.depth=6")
    assert value(config, "left.depth") == 6
    assert value(config, "right.depth") == 5


def test_toml_values_are_taken_as_they_are(resolved: Callable[..., Config], tmp_path: Path) -> None:
    """A TOML boolean, number or text is read as another value."""
    (tmp_path / "hvmmu.toml").write_text(
        '[mmu]\nupdate_on_write = false\nflood = 0x10\n[guest]\nmemory = "64M"\npager = "lazy"\n'
    )
    config = resolved()
    assert value(config, "mmu.update_on_write") is False
    assert value(config, "mmu.flood") == 16
    assert value(config, "guest.memory") == 64 << 20
    assert value(config, "guest.pager") == "lazy"


def test_a_variable_of_two_keys_is_refused() -> None:
    """One of two plugins' sections takes what was meant for the other."""
    own = {"a": make_params("b_c"), "a-b": make_params("c", "d")}
    known = ConfigSchema({}, {}, ("fast",), ("free",), own)
    cwd = Path("/")
    with pytest.raises(ConfigError) as caught:
        resolve(known, cwd=cwd, environ={"HVMMU_A_B_C": "2"})
    assert caught.value.problems == (
        "HVMMU_A_B_C: may mean several; write -p a.b_c=... or -p a-b.c=...",
    )
    assert value(resolve(known, cwd=cwd, environ={"HVMMU_A_B_D": "2"}), "a-b.d") == 2


def make_params(*names: str) -> type:
    """Return a section's class with ints of these names."""
    fields = {name: param(default=1, doc="an int") for name in names}
    return attrs.make_class("Made", fields, frozen=True)


def test_the_loaders_variables_are_left_alone(resolved: Callable[..., Config]) -> None:
    """A variable of the plugin loader, or of someone else, is reported as unknown."""
    environ = {"HVMMU_PLUGINS": "x", "HVMMU_DISABLE_PLUGIN_AUTOLOAD": "1", "HVMM": "", "PATH": ""}
    assert resolved(environ=environ) == resolved()


def test_rows_say_everything(resolved: Callable[..., Config]) -> None:
    """`config --explain` leaves a key out, or shows a value, source or default of another."""
    rows = {row.key: row for row in resolved("memory=64M", "left.depth=2").rows}
    assert list(rows) == [
        "backend",
        "costs",
        "engine",
        "mmu.update_on_write",
        "mmu.flood",
        "guest.memory",
        "guest.pager",
        "left.filter_faults",
        "left.depth",
        "left.flood",
        "right.depth",
    ]
    row = rows["guest.memory"]
    assert (row.value, row.source, row.default) == ("64M", "-p memory=64M", "1G")
    assert row.is_explicit
    assert not rows["mmu.flood"].is_explicit
