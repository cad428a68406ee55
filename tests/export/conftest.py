import pytest


@pytest.fixture(scope="session")
def network(exported_network):
    return exported_network
