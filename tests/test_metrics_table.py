"""Every entry of the table of metrics loads, is a function, and says what it measures."""

import inspect

import pytest

from neuroreg.metrics import METRICS


@pytest.mark.parametrize("name", METRICS)
def test_an_entry_is_a_documented_function(name: str) -> None:
    function = METRICS[name].load()
    assert inspect.isfunction(function)
    assert inspect.getdoc(function)
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
