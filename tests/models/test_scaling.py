"""The formulas of benchmarks/scaling.py against XLA's own analysis, and the page made of them."""

import dataclasses
import importlib.util
import pathlib
import re
import runpy
import sys

import pytest

from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.network.config import ImageGPTConfig
from tests.interpreter import Interpreter

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scaling.md"


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["scaling"]


@pytest.mark.slow
def test_flops_and_memory_are_those_that_xla_counts():
    pytest.importorskip("jax")
    code = f"""
        import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})
        import jax, numpy as np, igpt_keras, scaling
        images, size = 4, 16

        def compiled(layers, remat, **attention):
            config = igpt_keras.ImageGPTConfig(size, 64, 128, layers, 4, **attention)
            model = igpt_keras.ImageGPT(config)
            model.compile(remat=remat)
            state = [[v.value for v in model.trainable_variables],
                     [v.value for v in model.non_trainable_variables]]
            tokens = jax.ShapeDtypeStruct((images, size * size), "int32")
            def loss(trained, other, tokens):
                return model.stateless_call(trained, other, tokens, return_losses=True)[2][0].sum()
            step = jax.jit(jax.grad(loss)).lower(*state, tokens).compile()
            return config, step.cost_analysis()["flops"], step.memory_analysis().temp_size_in_bytes

        for remat in (False, True):
            for attention in (
                dict(attention="strided"),
                dict(attention="strided", attention_layers=("merged",)),
                dict(attention="fixed"),
            ):
                config, flops, size_of_two = compiled(2, remat, **attention)
                np.testing.assert_allclose(
                    flops, scaling.step_flops(config, images, remat), rtol=0.03
                )
                larger, _, size_of_four = compiled(4, remat, **attention)
                formulas = [
                    scaling.activation_bytes(c, images, False, remat, keeps_all=True)
                    for c in (config, larger)
                ]
                if not remat:
                    added = formulas[1] - formulas[0]
                    np.testing.assert_allclose(size_of_four - size_of_two, added, rtol=0.03)
                assert 0.75 < size_of_four / formulas[1] < 1.05, (size_of_four, formulas)
            config, flops, size_of_two = compiled(2, remat)
            formula = scaling.step_flops(config, images, remat)
            np.testing.assert_allclose(flops, formula, rtol=0.03)
            # What blocks add; what one block has at work is an upper bound.
            larger, _, size_of_four = compiled(4, remat)
            formulas = [
                scaling.activation_bytes(c, images, False, remat, keeps_all=True)
                for c in (config, larger)
            ]
            added = formulas[1] - formulas[0]
            np.testing.assert_allclose(size_of_four - size_of_two, added, rtol=0.01)
            assert 0.75 * formulas[1] < size_of_four <= formulas[1], (size_of_four, formulas)
    """
    # The scheduler that is otherwise used on CPUs takes memory to gain time.
    flags = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    with Interpreter.on_jax(XLA_FLAGS=flags) as jax:
        jax.run(code)


@pytest.mark.parametrize(
    ("attention", "keys"),
    [
        # Half of the blocks see two rows, the others a column.
        ("strided", (2 * 8 + 6) / 2),
        # Half see their row, the others two summary positions of each of five rows as well.
        ("fixed", (8 + 8 + 2 * 5) / 2),
    ],
)
def test_flops_of_sparse_attention_count_the_keys_of_a_query(scaling, attention, keys):
    config = ImageGPTConfig(4, 7, 12, 4, 2, grid=(6, 8), attention=attention)
    if attention == "fixed":
        config = dataclasses.replace(config, summary=2)
    dense = dataclasses.replace(config, attention="dense", summary=None)
    others = scaling.forward_flops(dense) - 4 * 4 * 48 * 12
    assert scaling.forward_flops(config) == others + 4 * 4 * keys * 12


@pytest.mark.parametrize("image_size", [3, 5])
def test_forward_flops_are_those_of_every_matrix_product(scaling, image_size):
    config = ImageGPTConfig(image_size, 7, 12, 3, 2)
    model = ImageGPT(config)
    weights = sum(
        2 * v.shape[0] * v.shape[1] for v in model.trainable_variables if v.path.endswith("kernel")
    )
    # For each head, n × D times D × n, and n × n times n × D.
    n, head = image_size**2, 6
    attention = 3 * 2 * (2 * n * head * n + 2 * n * n * head)
    assert scaling.forward_flops(config) * n == weights * n + attention


def test_chosen_strategies_fit_and_those_before_them_do_not(scaling):
    names = set()
    for _, config, batch_size, _ in scaling.rows():
        for accelerator in scaling.ACCELERATORS.values():
            chosen = scaling.choose_strategy(config, batch_size, accelerator, devices=8)
            if chosen is None:
                continue
            names.add(str(chosen).split()[0])
            limit = scaling.USABLE * accelerator.memory * 1e9
            assert scaling.device_bytes(config, batch_size, chosen) <= limit
            assert chosen.devices % chosen.parts == 0 and config.num_heads % chosen.parts == 0
            assert batch_size * chosen.parts % (chosen.devices * chosen.micro_batches) == 0
            fewer = scaling.strategies(config, batch_size, accelerator.tpu, chosen.devices)
            for strategy in fewer:
                if strategy == chosen:
                    break
                assert scaling.device_bytes(config, batch_size, strategy) > limit
    assert names == {"mirrored", "tpu", "ModelParallel"}


def test_the_page_shows_what_the_script_prints(scaling):
    page = PAGE.read_text(encoding="utf-8")
    accelerators = scaling.ACCELERATORS
    for table in (
        scaling.memory_table(),
        scaling.flops_table(),
        scaling.sparse_table(),
        scaling.strategy_table(accelerators),
        scaling.cost_table(accelerators, 0.4),
    ):
        assert table in page


def test_the_page_shows_what_learned_tokens_take(scaling):
    code = runpy.run_path(str(ROOT / "benchmarks" / "learned_tokens.py"))
    assert code["learned_table"]() in PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_of_the_page_runs_as_it_stands():
    pytest.importorskip("jax")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with Interpreter.on_jax() as jax:
        jax.run(code)
