"""A network that torch.compile compiled gives what the other gives, and a missing compiler is told before the work."""

from __future__ import annotations

import pytest
import torch
from made_studies import lively_network
from scripts.errors import BioAttError
from scripts.networks import BioAttUNet, load_weights


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: BioAttUNet(widths=(8, 12)), lambda: lively_network(8)])
def test_a_compiled_network_gives_the_same_at_every_size(tmp_path, make):
    torch.manual_seed(0)
    torch.save(make().state_dict(), tmp_path / "w.pt")
    plain, compiled = (load_weights(make(), tmp_path / "w.pt", compiled=wanted) for wanted in (False, True))
    assert compiled.state_dict().keys() == plain.state_dict().keys() and compiled.title == plain.title
    for size in ((64, 64), (37, 50), (90, 41)):
        image, prior = torch.rand(1, 1, *size), torch.rand(1, 11).softmax(dim=1)
        with torch.inference_mode():
            expected = plain(image, prior)
            torch.testing.assert_close(compiled(image, prior), expected, atol=1e-4, rtol=0)
            assert (expected - image).std() > 0.005


def test_a_missing_compiler_is_told(tmp_path, monkeypatch):
    torch.save(BioAttUNet(widths=(4, 6)).state_dict(), tmp_path / "w.pt")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BioAttError, match="needs a C\\+\\+ compiler"):
        load_weights(BioAttUNet(widths=(4, 6)), tmp_path / "w.pt", compiled=True)
