"""Packages whose names are imported when they are asked for."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import gmi_registry

PACKAGES = ["gmi_registry.index", "gmi_registry.scoring", "gmi_registry.spec"]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_has_what_its_stub_says(name: str) -> None:
    package = import_module(name)
    stub = Path(str(package.__file__)).with_suffix(".pyi")
    stated = {
        alias.name: node.module
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(package.__all__) == sorted(stated)
    for member, module in stated.items():
        assert getattr(package, member) is getattr(import_module(str(module)), member)
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        package.absent  # noqa: B018


def test_the_stubs_are_part_of_the_package() -> None:
    root = Path(str(gmi_registry.__file__)).parent
    assert {path.parent.name for path in root.rglob("__init__.pyi")} == {
        "gmi_registry",
        *(name.rpartition(".")[2] for name in PACKAGES),
    }
