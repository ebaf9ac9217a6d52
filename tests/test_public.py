"""The public names: each is documented by an example that runs, and importing them loads nothing large."""

import doctest
import subprocess
import sys

import fixed_rollouts
import pytest

import recrl


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return fixed_rollouts.saved_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize("name", recrl.__all__)
def test_its_example_runs(name, policy, tmp_path):
    text = getattr(recrl, name).__doc__.replace("path-or-hub-name", policy)
    # A machine without a GPU is said to be one.
    here = f"GRPOConfig({str(tmp_path)!r}, use_cpu=True, report_to='none', max"
    text = text.replace("GRPOConfig(max", here)
    # What the library prints beside the example is not its own.
    quiet = "trainer.remove_callback(__import__('transformers').ProgressCallback)"
    text = text.replace("_ = trainer.train()", f"{quiet}; _ = trainer.train()")
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples, f"recrl.{name} has no example"
    said = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert not failed, "".join(said)


def test_importing_them_does_not_wait_for_torch():
    asked = "import recrl, sys; print({'torch', 'trl', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
