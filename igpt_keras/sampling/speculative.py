"""Speculative decoding: several tokens per pass of the model, the same ones as plain decoding.

A token is the argmax of the model's logits plus noise that depends only on seed and position.
A guess is right if and only if it is the token that the model draws there with that noise, so
no accept/reject randomness is needed. A pass takes the last final token and guesses for the
positions after it, and draws at all of them. The draws up to and including the first position
whose guess was wrong are those of plain decoding, since all tokens before it are right.

With classes and guidance the model draws from other logits, and a guess is right if it is what is
drawn from these. The draft knows of no class.

The model drew the tokens after a wrong guess from a mostly right context; they are the guesses
of the next pass, at no cost (Wiggers and Hoogeboom, "Predictive sampling with forecasting
autoregressive models", 2020, https://arxiv.org/abs/2002.09928). The draft guesses where no pass
has been yet.

Shapes: B sequences that advance together, as far as the slowest; n positions; W positions per
pass; V tokens in the vocabulary.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

from typing import Any, NamedTuple

from keras import ops

from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.autoregressive import DecodingState, RowBlock, decode_until
from igpt_keras.sampling.backends import backend
from igpt_keras.sampling.conditioning import conditioned_step
from igpt_keras.sampling.drafts import Draft
from igpt_keras.sampling.gumbel import log_prob_and_entropy, sample_token
from igpt_keras.sampling.samplers import Sampler
from igpt_keras.tensors import Tensor

# How often the draft goes over its guesses, each time given the previous ones. Guessing one
# position after the other would take W calls, for hardly better guesses.
SWEEPS = 2


class Guesses(NamedTuple):
    """The part of a decoding state for a draft. The state's tokens hold the guessed ones."""

    stop: Tensor  # int32 scalar, the first position without a guess
    num_passes: Tensor  # int32 scalar, passes of the model so far
    draft_state: Any


def begin_guesses(draft: Draft, tokens: Tensor, prefix: Tensor, num_completions: Tensor) -> Guesses:
    """Returns the state without a guess, after the known first `prefix` of tokens int32 [B, n]."""
    stop = ops.convert_to_tensor(prefix, "int32")
    return Guesses(stop, ops.zeros_like(stop), draft.begin(tokens, prefix, num_completions))


def guesses_spec(draft: Draft) -> Guesses:
    """Returns shapes and dtypes of guesses for any number of sequences."""
    scalar = backend.TensorSpec([], "int32")
    return Guesses(scalar, scalar, draft.spec())


def speculate_rows(
    model: TokenModel,
    draft: Draft,
    state: DecodingState,
    known: Tensor,
    seeds: Tensor,
    sampler: Sampler,
    num_rows: int | Tensor,
) -> DecodingState:
    """Decodes as `autoregressive.decode_rows` does, and sometimes a little further.

    Args:
        model: The model that checks the guesses.
        draft: The draft that makes them.
        state: A state with `guesses` of that draft.
        known: bool [n, B].
        seeds: As for `decode_rows`.
        sampler: Its fields are tensors [B].
        num_rows: As for `decode_rows`.
    """
    width = min(draft.window, model.config.sequence_length)
    block = RowBlock(model, state, seeds, num_rows, lookahead=width)
    window = _Window(model, draft, known, sampler, block, width)
    return decode_until(block.stop, window.step, block.grow(state))


class _Window:
    """One pass over W positions: guess, draw, and accept what was guessed right."""

    def __init__(
        self,
        model: TokenModel,
        draft: Draft,
        known: Tensor,
        sampler: Sampler,
        block: RowBlock,
        width: int,
    ):
        self.model, self.draft, self.known, self.sampler = model, draft, known, sampler
        self.block, self.width = block, width

    def step(self, state: DecodingState) -> DecodingState:
        # The last windows reach back over final tokens rather than beyond the image.
        start = ops.minimum(state.position, self.model.config.sequence_length - self.width)
        positions = start + ops.arange(self.width)
        tokens, draft_state = self._guess(state.tokens, state.guesses, start)
        previous = backend.take(tokens, ops.maximum(positions - 1, 0))
        logits, caches = conditioned_step(
            self.model, ops.transpose(previous), start, state.caches, state.condition
        )
        of_model, guided = (ops.transpose(values, (1, 0, 2)) for values in logits)
        guessed = backend.take(tokens, positions)
        is_new = (positions >= state.position)[:, None]
        drawn = ops.where(is_new, self._draw(positions, guessed, guided), guessed)
        is_right = ops.cast(ops.all(drawn == guessed, axis=1), "int32")
        accepted = ops.minimum(ops.sum(ops.cumprod(is_right, axis=0)) + 1, self.width)
        log_probs, entropies = log_prob_and_entropy(of_model, drawn)

        def write(values, new):
            new = ops.where(is_new, new, backend.take(values, positions))
            return ops.scatter_update(values, positions[:, None], new)

        return DecodingState(
            position=start + accepted,
            tokens=ops.scatter_update(tokens, positions[:, None], drawn),
            log_probs=write(state.log_probs, log_probs),
            entropies=write(state.entropies, entropies),
            caches=caches,
            guesses=Guesses(start + self.width, state.guesses.num_passes + 1, draft_state),
            condition=state.condition,
        )

    def _guess(self, tokens, guesses: Guesses, start):
        """The tokens with guesses up to the last position of the window, and the draft's state."""
        positions = start + ops.arange(self.width - 1)
        is_new = (positions >= guesses.stop)[:, None]
        last = tokens[ops.maximum(guesses.stop - 1, 0)]
        is_unknown = is_new & ~backend.take(self.known, positions)
        here = ops.where(is_unknown, last, backend.take(tokens, positions))
        draft_state = guesses.draft_state
        for _ in range(SWEEPS):
            tokens = ops.scatter_update(tokens, positions[:, None], here)
            logits, draft_state = self.draft.logits(draft_state, tokens, start, self.width - 1)
            here = ops.where(is_new, self._draw(positions, here, logits), here)
        return ops.scatter_update(tokens, positions[:, None], here), draft_state

    def _draw(self, positions, tokens, logits):
        """Tokens int32 [k, B] at positions [k]: the known ones of `tokens` [k, B], else drawn."""
        noise = backend.take(self.block.noise, ops.maximum(positions - self.block.start, 0))
        count = ops.shape(positions)[0]
        vocabulary_size = self.model.config.vocabulary_size
        drawn = sample_token(
            ops.reshape(logits, (-1, vocabulary_size)),
            ops.reshape(noise, (-1, vocabulary_size)),
            self.sampler.map(lambda field: ops.tile(field, (count,))),
        )
        drawn = ops.reshape(drawn, (count, -1))
        return ops.where(backend.take(self.known, positions), tokens, drawn)
