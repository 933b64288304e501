"""Layers under threads and processes: two threads on one module, fork after use, torch's own helpers."""

import concurrent.futures
import os
import threading

import pytest

torch = pytest.importorskip("torch")

from mpl_sparse.nn import SparseConv2d, SparseLinear  # noqa: E402


def half_pruned():
    model = torch.nn.Sequential(SparseConv2d(8, 16, 3, padding=1), torch.nn.Flatten(), SparseLinear(16 * 16 * 16, 64))
    for layer in (model[0], model[2]):
        layer.random_prune_by_pct(0.8)
    return model


@pytest.mark.usefixtures("backend")
def test_two_threads_on_one_new_module():
    for _ in range(5):  # a new module each time: the threads race to build the same plans
        model, barrier = half_pruned(), threading.Barrier(2)
        inputs = torch.randn(2, 4, 8, 16, 16)

        def run(input, model=model, barrier=barrier):
            barrier.wait()
            leaf = input.clone().requires_grad_()
            for _ in range(3):
                output = model(leaf)
                (grad,) = torch.autograd.grad(output.sum(), leaf)
            return output.detach(), grad

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            results = list(pool.map(run, inputs))
        for input, (output, grad) in zip(inputs, results):
            leaf = input.clone().requires_grad_()
            alone = model(leaf)
            assert torch.equal(output, alone)
            assert torch.equal(grad, torch.autograd.grad(alone.sum(), leaf)[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_after_use():
    model, input = half_pruned(), torch.randn(4, 8, 16, 16)
    with torch.no_grad():
        expected = model(input)
        child = os.fork()
        if child == 0:
            signal_after(30)  # a hang in the child ends the child, not the test run
            torch.set_num_threads(2)
            os._exit(0 if torch.equal(model(input), expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert torch.equal(model(input), expected)


def signal_after(seconds):
    import signal

    signal.alarm(seconds)


def test_functional_call_swap_and_gradient_clipping():
    model, input = half_pruned(), torch.randn(1, 8, 16, 16)
    doubled = {name: 2 * parameter for name, parameter in model.named_parameters()}
    output = torch.func.functional_call(model, doubled, (input,))
    assert not torch.equal(output, model(input))
    output.sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    torch.testing.assert_close(averaged(input), model(input))
