"""statsmodels' correction collects garbage at every call: what is loaded already is left out of its walk."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="session")
def _loaded_modules_are_no_garbage():
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
