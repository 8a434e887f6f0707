from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.models import execution
from fedsim.models.convnet import Config, ConvNet
from fedsim.models.execution import AS_WRITTEN, Execution, Runner, has_bfloat16, has_compiler
from fedsim.models.functional import state
from fedsim.models.network import Network, build_network
from fedsim.models.norms import Norm
from fedsim.seeding import stream
from fedsim.types import UserError

IMAGES = torch.randn(7, 3, 8, 8, generator=stream(0, "images"))


def network(seed: int = 0, norm: Norm = "instance") -> Network:
    return build_network(ConvNet, Config(depth=2, width=4, norm=norm), (3, 8, 8), 5, stream(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.booleans(), st.integers(1, 7))
def test_pieces_and_layouts_give_the_whole_batch(chunk: int, channels_last: bool, size: int) -> None:
    one, images = network(), IMAGES[:size]
    runner = Runner(network(), Execution(chunk, channels_last=channels_last))
    torch.testing.assert_close(runner.logits(images), one(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(runner.embed(images), one.embed(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(runner.head(runner.embed(images)), runner.logits(images), rtol=1e-4, atol=1e-5)
    for seen, expected in zip(runner.layers(images), one.features(images).layers, strict=True):
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


def test_weights_are_copied_in_and_the_source_stays() -> None:
    runner, other = Runner(network(0), AS_WRITTEN).frozen(), network(1)
    params = state(other)
    runner.load(params)
    torch.testing.assert_close(runner.logits(IMAGES), other(IMAGES), rtol=0, atol=0)
    runner.load({name: torch.zeros_like(value) for name, value in params.items()})
    assert torch.equal(params["head.weight"], other.head.weight)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(UserError, match=r"do not fit ConvNet \(missing or unknown: blocks.0.0.bias"):
        Runner(network(), AS_WRITTEN).load({"head.bias": torch.zeros(5)})


def test_frozen_weights_get_no_gradient_and_images_do() -> None:
    runner = Runner(network(), Execution(3)).frozen()
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(runner.embed(images).square().sum(), images)
    whole = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network().embed(whole).square().sum(), whole)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(runner.layers(images)[-1].square().sum(), images)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in runner.network.parameters())


def test_batch_norm_sees_the_whole_batch() -> None:
    runner = Runner(network(norm="batch"), Execution(2))
    assert runner.rows(7) == 7
    assert Runner(network(), Execution(2)).rows(7) == 2
    torch.testing.assert_close(runner.logits(IMAGES), network(norm="batch")(IMAGES), rtol=0, atol=0)
    torch.testing.assert_close(runner.layers(IMAGES)[0], network(norm="batch").blocks[0](IMAGES), rtol=0, atol=0)


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor does not compute in bfloat16")
def test_bfloat16_is_near_and_comes_back_as_float32() -> None:
    exact = network().embed(IMAGES)
    rough = Runner(network(), Execution(precision="bfloat16")).embed(IMAGES)
    assert rough.dtype == torch.float32
    error = float(((rough - exact).norm() / exact.norm()).detach())
    assert 1e-6 < error < 0.02  # eight bits of mantissa: not float32 in disguise, and not wrong
    layers = Runner(network(), Execution(3, precision="bfloat16")).layers(IMAGES)
    assert {layer.dtype for layer in layers} == {torch.float32}
    torch.testing.assert_close(layers[-1].flatten(1), rough, rtol=0.02, atol=0.02)


def test_a_compiler_is_what_torch_would_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CXX", "my-compiler")
    monkeypatch.setattr(execution.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(execution.shutil, "which", lambda name: None if name != "my-compiler" else "/bin/my-compiler")
    assert has_compiler("cpu")
    monkeypatch.setenv("CXX", "another")
    assert not has_compiler("cpu")
    monkeypatch.setenv("CXX", "my-compiler")
    (tmp_path / "Python.h").unlink()  # its bindings include it
    assert not has_compiler("cpu")


COMPILED = """
import sys
import torch
torch.set_num_threads(1)
import torch._dynamo
from torch._dynamo.utils import counters
torch._dynamo.config.recompile_limit = 2
from fedsim.models.convnet import Config, ConvNet
from fedsim.models.execution import Execution, Runner
from fedsim.models.functional import state
from fedsim.models.network import build_network
from fedsim.seeding import stream
def network(seed, depth=1): return build_network(ConvNet, Config(depth=depth, width=4), (3, 8, 8), 5, stream(seed))
compiler, backend = torch.compile, sys.argv[1]
torch.compile = lambda module, **settings: compiler(module, **settings | {"backend": backend})
images = torch.randn(7, 3, 8, 8, generator=stream(0, "images"))
for seed in range(3):
    runner = Runner(network(9), Execution(3, compile=True, channels_last=True)).frozen()
    runner.load(state(network(seed)))
    inputs = images.clone().requires_grad_()
    seen = runner.embed(inputs)
    (gradient,) = torch.autograd.grad(seen.square().sum(), inputs)
    other = images.clone().requires_grad_()
    expected = network(seed).embed(other)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), other)[0], rtol=1e-4, atol=1e-5)
print("graphs", counters["stats"]["unique_graphs"])
if backend != "aot_eager": sys.exit()  # what follows is of the graphs and of their number, whatever runs them
runner = Runner(network(9, 2), Execution(3, compile=True, channels_last=True)).frozen()
for seed in range(2):
    runner.load(state(network(seed, 2)))
    inputs = images.clone().requires_grad_()
    seen = runner.layers(inputs)
    (gradient,) = torch.autograd.grad(sum(layer.square().sum() for layer in seen), inputs)
    other = images.clone().requires_grad_()
    expected = network(seed, 2).features(other).layers
    for one, another in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-4, atol=1e-5)
    whole = torch.autograd.grad(sum(layer.square().sum() for layer in expected), other)[0]
    torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-4)
for width in range(1, 4):  # more graphs than torch is told to allow one function
    other = build_network(ConvNet, Config(depth=1, width=width), (3, 8, 8), 5, stream(0))
    torch.testing.assert_close(Runner(other, Execution(0, compile=True)).embed(images), other.embed(images))
"""


@pytest.mark.skipif(not has_compiler("cpu"), reason="no C++ compiler")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_one_compiled_graph_serves_every_network(backend: str) -> None:
    """In a process of its own: torch's compiler does not look through the run-time checks of the test run.

    The slow one has C++ made of the graph, which takes half a minute; what is torch's own in it.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED, backend], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "graphs 1"
